"""Groups, schedule and the division and clipping of gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minift import BertForSequenceClassification
from minift.train.optim import (
    linear_schedule,
    new_optimizer,
    normalise_gradients,
    parameter_groups,
    set_rate,
)


def test_every_parameter_is_in_exactly_one_group(tiny_bert):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    decayed, plain = parameter_groups(model, weight_decay=0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    grouped = [id(p) for group in (decayed, plain) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(("norm" in names[i] or "bias" in names[i]) for i in map(id, plain["params"]))
    assert not any(("norm" in names[i] or "bias" in names[i]) for i in map(id, decayed["params"]))


def test_frozen_parameters_are_in_no_group(tiny_bert):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    model.bert.requires_grad_(False)
    groups = parameter_groups(model, weight_decay=0.1)
    assert sum(len(group["params"]) for group in groups) == 2


def test_schedule_equals_the_reference():
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    for total, warmup in [(10, 0), (10, 3), (7, 7), (1, 0)]:
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.AdamW([parameter], lr=1.0)
        theirs = transformers.get_linear_schedule_with_warmup(optimizer, warmup, total)
        for step in range(total):
            assert linear_schedule(step, total, warmup) == pytest.approx(theirs.get_last_lr()[0])
            optimizer.step()
            theirs.step()


def test_schedule_rises_and_falls():
    factors = [linear_schedule(step, total=100, warmup=10) for step in range(100)]
    assert factors[0] == 0
    assert max(factors) == factors[10] == 1
    assert factors[99] == pytest.approx(1 / 90)


@pytest.mark.parametrize("max_norm", [0.01, 1e6])
def test_gradients_of_a_sum_become_those_of_the_mean_clipped(max_norm):
    x, y = torch.randn(6, 4), torch.randn(6, 1)
    ours, theirs = nn.Linear(4, 1), nn.Linear(4, 1)
    theirs.load_state_dict(ours.state_dict())
    nn.functional.mse_loss(ours(x), y, reduction="sum").backward()
    norm = normalise_gradients(ours, torch.tensor(6.0), max_norm)
    nn.functional.mse_loss(theirs(x), y).backward()
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    torch.testing.assert_close(norm, expected)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_adamw_follows_the_paper():
    parameter = nn.Parameter(torch.tensor([[1.0]]))
    model = nn.Module()
    model.weight = parameter
    optimizer = new_optimizer(model, "adamw", weight_decay=0.5)
    optimizer.param_groups[0]["lr"] = 0.1
    parameter.grad = torch.tensor([[3.0]])
    optimizer.step()
    # With bias correction the first step is sign(gradient) * rate, after the decay rate * 0.5 * 1.
    assert parameter.item() == pytest.approx(1 - 0.1 * 0.5 - 0.1, abs=1e-6)


def test_adafactor_decays_matrices_alone_and_moves_in_proportion():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = new_optimizer(model, "adafactor", weight_decay=0.5)
    set_rate(optimizer, 0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.allclose(model.weight, before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(model.bias, before["bias"])
    # All gradients alike: a step is as long as rate times size.
    model.weight.grad = torch.ones_like(model.weight)
    size, start = model.weight.detach().square().mean().sqrt(), model.weight.detach().clone()
    fresh = new_optimizer(model, "adafactor", weight_decay=0.0)
    set_rate(fresh, 0.1)
    fresh.step()
    moved = (start - model.weight).square().mean().sqrt()
    assert moved.item() == pytest.approx(0.1 * size.item(), rel=1e-3)
