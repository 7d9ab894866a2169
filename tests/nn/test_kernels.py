"""Each kernel equals the plain formula that it replaces: values, gradients and probabilities."""

from __future__ import annotations

import pytest
import torch
from support.attention import MASKS

from minift.nn.attention import attention, packed_attention
from minift.nn.kernels import dropout, prepacked_weights
from minift.nn.layers import NoBiasLinear, RMSNorm
from minift.nn.packing import pack


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_numbers_are_dropped_with_the_probability_asked_for(p):
    x = torch.ones(1_000_001, requires_grad=True)  # no multiple of four
    y = dropout(x, p)
    share = (y == 0).double().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / len(x)) ** 0.5 + 2**-17  # five standard deviations
    assert y.mean().item() == pytest.approx(1.0, abs=5 * (p / (1 - p) / len(x)) ** 0.5 + 1e-4)
    y.sum().backward()
    assert torch.equal(x.grad, y)  # what was dropped gets no gradient


def test_decisions_do_not_depend_on_each_other():
    dropped = (dropout(torch.ones(400_000), 0.5) == 0).double()
    for lag in (1, 2, 3, 4, 8):
        pair = torch.stack([dropped[:-lag], dropped[lag:]])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 5 / 400_000**0.5
    by_quarter = dropped.view(-1, 4).mean(0)
    assert (by_quarter - 0.5).abs().max().item() < 5 * 0.5 / 100_000**0.5


def test_edge_cases_of_dropout():
    x = torch.randn(3, 5)
    assert dropout(x, 0.0) is x
    assert torch.equal(dropout(x, 1.0), torch.zeros(3, 5))
    assert dropout(x[:0], 0.5).shape == (0, 5)
    assert dropout(x.bfloat16(), 0.5).dtype == torch.bfloat16
    torch.manual_seed(3)
    first = dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x, 0.5))
    kept = first != 0
    torch.testing.assert_close(first[kept], (x * 2)[kept])
    assert dropout(x.t(), 0.5).shape == (5, 3)


@pytest.mark.parametrize("shape", [(7, 12), (3, 5, 12), (0, 12)])
def test_the_gradient_of_the_norm_equals_that_of_the_formula(shape):
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
    assert type(y.grad_fn).__name__.startswith("_RMSNormFunction")
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


@pytest.mark.parametrize("rows", [(1,), (8,), (3, 4)])
def test_prepacked_weights_give_the_same_products(rows):
    layer, x = NoBiasLinear(16, 24), torch.randn(*rows, 16)
    expected = layer(x)
    with torch.no_grad(), prepacked_weights([layer], num_rows=8):
        assert layer.prepacked is not None
        with prepacked_weights([layer], num_rows=8):  # nested: does nothing
            pass
        assert layer.prepacked is not None
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert layer.prepacked is None


def varlen_kernel(q, k, v, layout, scale):
    """torch's variable-length attention, sequence by sequence; q, k, v: (S, N, D)."""
    query_offsets, key_offsets, max_queries, max_keys = layout
    assert query_offsets.dtype is key_offsets.dtype is torch.int32
    assert max_queries == max(query_offsets.diff())
    assert max_keys == max(key_offsets.diff())
    outputs = []
    for i in range(len(key_offsets) - 1):
        queries, keys = (slice(*ends[i : i + 2].tolist()) for ends in (query_offsets, key_offsets))
        heads = (x.transpose(0, 1) for x in (q[queries], k[keys], v[keys]))
        outputs.append(attention(*heads, scale=scale).transpose(0, 1))
    return torch.cat(outputs)


class Kernels:
    """In place of torch.ops.aten: its two kernels for a GPU, with the arguments that they take."""

    @staticmethod
    def _efficient_attention_forward(q, k, v, bias, *layout_and_flags, scale):
        *layout, _, mask, trains = layout_and_flags
        assert (bias, mask, trains) == (None, 0, True)
        return [varlen_kernel(q[0], k[0], v[0], layout, scale)[None]]

    @staticmethod
    def _flash_attention_forward(q, k, v, *layout_and_flags, scale):
        *layout, _, causal, debug = layout_and_flags
        assert (causal, debug) == (False, False)
        return [varlen_kernel(q, k, v, layout, scale)]


@pytest.mark.parametrize("cls_only", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_variable_length_kernels_get_the_offsets_of_the_sequences(
    rows, kind, cls_only, monkeypatch
):
    packing = pack(torch.tensor(rows))
    x = torch.randn(len(packing.index), 3, 3, 8, dtype=kind)
    results = []
    for available in (False, True):
        monkeypatch.setattr(
            "minift.nn.attention.has_varlen_attention", lambda q, available=available: available
        )
        leaf = x.clone().requires_grad_()
        with monkeypatch.context() as patch:
            if available:
                patch.setattr(torch.ops, "aten", Kernels)
            q, k, v = leaf.unbind(1)
            mixed = packed_attention(
                packing.cls_tokens(q) if cls_only else q, k, v, packing, cls_only=cls_only
            )
        mixed.square().sum().backward()
        results.append((mixed, leaf.grad))
    close = 1e-5 if kind is torch.float32 else 5e-2
    torch.testing.assert_close(results[0], results[1], atol=close, rtol=close)
