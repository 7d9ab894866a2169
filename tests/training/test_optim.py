"""Parameter groups, their learning rates, and the averaging and clipping of gradients."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from minift import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)
from minift.nn.kernels import sparse_embedding_gradients
from minift.training.optim import (
    average_and_clip_gradients,
    describe_groups,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)


def tiny_models(tiny_bert):
    config = T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    untied = replace(config, num_decoder_layers=3, tie_word_embeddings=False)
    gated = replace(config, feed_forward_proj="gated-gelu")
    return {
        "sequence": BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2),
        "tokens": BertForTokenClassification.from_pretrained(tiny_bert, num_labels=3),
        "answers": BertForQuestionAnswering.from_pretrained(tiny_bert, num_labels=2),
        "masked": BertForMaskedLM.from_pretrained(tiny_bert, reset_head=True),
        "encoder": BertModel.from_pretrained(tiny_bert),
        "t5": T5ForConditionalGeneration(untied),
        "gated": T5ForConditionalGeneration(gated),
    }


MODELS = ["sequence", "tokens", "answers", "masked", "encoder", "t5", "gated"]
# What a family's names say of the depth, written out on purpose.
DEPTHS = {
    "embeddings": 0,
    "shared": 0,
    "position": 0,
    "layers.0": 1,
    "layers.1": 2,
    "layers.2": 3,
    **dict.fromkeys(["pooler", "head", "lm_head"], "head"),
    **dict.fromkeys(["encoder.norm", "decoder.norm"], "head"),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_exactly_one_group_with_its_learning_rate(tiny_bert, name):
    model = tiny_models(tiny_bert)[name]
    top = 3 if name == "t5" else 2
    groups = parameter_groups(
        model, weight_decay=0.1, layerwise_lr_decay=0.5, head_lr_multiplier=7.0
    )
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    for group in groups:
        assert group["names"] == [names[id(p)] for p in group["params"]]
        for own in group["names"]:
            plain = "norm" in own or "bias" in own
            assert group["weight_decay"] == (0.0 if plain else 0.1), own
            found = [depth for part, depth in DEPTHS.items() if f".{part}." in f".{own}."]
            depth = next(d for d in reversed(found))
            depth = found[0] if found[0] in (1, 2, 3) else depth
            assert group["factor"] == (7.0 if depth == "head" else 0.5 ** (top - depth)), own
    shown = describe_groups(groups, 0.1)
    count = sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+) parameters", shown))
    assert count == sum(p.numel() for p in model.parameters())
    assert "5.00e-02" in shown
    same = parameter_groups(model, weight_decay=0.1)
    assert {group["factor"] for group in same} == {1.0}
    assert len(same) == 2


def test_frozen_parameters_are_in_no_group(tiny_bert):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    model.encoder.requires_grad_(False)
    groups = parameter_groups(model, weight_decay=0.1, layerwise_lr_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == 2


def test_the_learning_rate_of_a_group_is_the_runs_times_its_factor(tiny_bert):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    optimizer = make_optimizer(
        "adamw", parameter_groups(model, 0.0, layerwise_lr_decay=0.5, head_lr_multiplier=4.0)
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    set_learning_rate(optimizer, 0.01)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()  # with all gradients alike, AdamW's first step is as long as the rate
    for name, p in model.named_parameters():
        factor = {"head": 4, "layers.1": 1, "layers.0": 0.5, "embeddings": 0.25, "pooler": 4}
        expected = next(f for part, f in factor.items() if part in name) * 0.01
        torch.testing.assert_close(
            before[name] - p, torch.full_like(p, expected), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("max_norm", [0.01, 1e6])
def test_gradients_of_a_sum_become_those_of_the_mean_clipped(max_norm):
    x, y = torch.randn(6, 4), torch.randn(6, 1)
    ours, theirs = nn.Linear(4, 1), nn.Linear(4, 1)
    theirs.load_state_dict(ours.state_dict())
    nn.functional.mse_loss(ours(x), y, reduction="sum").backward()
    norm = average_and_clip_gradients(ours, torch.tensor(6.0), max_norm)
    nn.functional.mse_loss(theirs(x), y).backward()
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    torch.testing.assert_close(norm, expected)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_which_gradients_are_sparse(monkeypatch, tiny_bert):
    """Those of large trainable tables that no output layer shares."""
    monkeypatch.setattr("minift.nn.kernels.ENABLED", True)
    monkeypatch.setattr("minift.nn.kernels.MIN_SPARSE_SIZE", 100)
    models = tiny_models(tiny_bert)
    ids = torch.randint(1, 9, (2, 5))
    found = {}
    for name in ("sequence", "masked", "t5", "gated"):
        model = models[name]
        optimizer = make_optimizer("adamw", parameter_groups(model, 0.0))
        sparse_embedding_gradients(model, optimizer)
        set_learning_rate(optimizer, 0.01)
        more = {"decoder_input_ids": ids} if name in ("t5", "gated") else {}
        model(ids, **more).square().sum().backward()
        found[name] = [n.split(".")[-2] for n, p in model.named_parameters() if p.grad.is_sparse]
        average_and_clip_gradients(model, torch.tensor(1.0), 1.0)
        optimizer.step()
        assert all(torch.isfinite(p).all() for p in model.parameters())
    assert found == {
        "sequence": ["word", "position"],
        "masked": ["position"],
        "t5": ["shared"],
        "gated": [],
    }
    frozen = models["tokens"]
    frozen.encoder.requires_grad_(False)
    sparse_embedding_gradients(frozen, make_optimizer("adamw", parameter_groups(frozen, 0.0)))
    assert not any(getattr(module, "sparse", False) for module in frozen.modules())
    off = models["encoder"]
    monkeypatch.setattr("minift.nn.kernels.ENABLED", False)
    sparse_embedding_gradients(off, make_optimizer("adamw", parameter_groups(off, 0.0)))
    assert not any(getattr(module, "sparse", False) for module in off.modules())


def test_adamw_follows_the_paper():
    parameter = nn.Parameter(torch.tensor([[1.0]]))
    group = {"params": [parameter], "weight_decay": 0.5, "factor": 1.0}
    optimizer = make_optimizer("adamw", [group])
    optimizer.param_groups[0]["lr"] = 0.1
    parameter.grad = torch.tensor([[3.0]])
    optimizer.step()
    # With bias correction the first step is sign(gradient) * rate, after the decay rate * 0.5 * 1.
    assert parameter.item() == pytest.approx(1 - 0.1 * 0.5 - 0.1, abs=1e-6)


def test_adafactor_decays_and_moves_in_proportion():
    weight = nn.Parameter(torch.randn(3, 4))
    size, start = weight.detach().square().mean().sqrt(), weight.detach().clone()
    optimizer = make_optimizer(
        "adafactor", [{"params": [weight], "weight_decay": 0.5, "factor": 1.0}]
    )
    set_learning_rate(optimizer, 0.1)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), start * (1 - 0.1 * 0.5))
    # All gradients alike: a step is as long as rate times size.
    weight.data.copy_(start)
    weight.grad = torch.ones_like(weight)
    fresh = make_optimizer("adafactor", [{"params": [weight], "weight_decay": 0.0, "factor": 1.0}])
    set_learning_rate(fresh, 0.1)
    fresh.step()
    moved = (start - weight.detach()).square().mean().sqrt()
    assert moved.item() == pytest.approx(0.1 * size.item(), rel=1e-3)
