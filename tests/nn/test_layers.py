"""Dropout with four decisions from one random number; the gradient of a norm by hand."""

from __future__ import annotations

import pytest
import torch

from minift.nn.layers import Dropout, RMSNorm, drop


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_numbers_are_dropped_with_the_probability_asked_for(p):
    x = torch.ones(1_000_001, requires_grad=True)  # no multiple of four
    y = drop(x, p)
    share = (y == 0).double().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / len(x)) ** 0.5 + 2**-17  # five standard deviations
    assert y.mean().item() == pytest.approx(1.0, abs=5 * (p / (1 - p) / len(x)) ** 0.5 + 1e-4)
    y.sum().backward()
    assert torch.equal(x.grad, y)  # what was dropped gets no gradient


def test_decisions_do_not_depend_on_each_other():
    dropped = (drop(torch.ones(400_000), 0.5) == 0).double()
    for lag in (1, 2, 3, 4, 8):
        pair = torch.stack([dropped[:-lag], dropped[lag:]])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 5 / 400_000**0.5
    by_lane = dropped.view(-1, 4).mean(0)
    assert (by_lane - 0.5).abs().max().item() < 5 * 0.5 / 100_000**0.5


def test_edges():
    x = torch.randn(3, 5)
    assert drop(x, 0.0) is x
    assert torch.equal(drop(x, 1.0), torch.zeros(3, 5))
    assert drop(x[:0], 0.5).shape == (0, 5)
    assert drop(x.bfloat16(), 0.5).dtype == torch.bfloat16
    layer = Dropout(0.5)
    assert (layer(x) == 0).any()
    assert layer.eval()(x) is x
    torch.manual_seed(3)
    first = drop(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, drop(x, 0.5))
    kept = first != 0
    torch.testing.assert_close(first[kept], (x * 2)[kept])
    assert drop(x.t(), 0.5).shape == (5, 3)


@pytest.mark.parametrize("shape", [(7, 12), (3, 5, 12), (0, 12)])
def test_the_gradient_of_the_norm_is_that_of_its_formula(shape):
    norm = RMSNorm(12, epsilon=1e-3)
    torch.nn.init.normal_(norm.weight)
    x, dy = torch.randn(2, *shape)
    if len(x):
        x[0] = 0  # nothing to divide by but epsilon

    def formula(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight

    inputs = [t.detach().requires_grad_() for t in (x, norm.weight)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    y, expected = norm(inputs[0]), formula(*exact)
    assert type(y.grad_fn).__name__.startswith("_RMSNormThatLearns")
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), y)
    # The weight that takes part is the parameter, so its gradient is found there.
    y.backward(dy)
    for got, want in zip(
        (inputs[0].grad, norm.weight.grad),
        torch.autograd.grad(expected, exact, dy.double()),
        strict=True,
    ):
        torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-4)
