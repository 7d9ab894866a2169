"""Gradient checkpointing and compiled layers give the same gradients."""

from __future__ import annotations

import shutil

import pytest
import torch
from support.tiny_t5 import TINY, sources

from minift.models.bert import BertForSequenceClassification
from minift.models.t5 import T5Config, T5ForConditionalGeneration
from minift.training.memory import compile_layers, enable_gradient_checkpointing


def bert_step(model):
    torch.manual_seed(3)
    ids = torch.randint(5, 60, (4, 20), generator=torch.Generator().manual_seed(1))
    return model(ids).square().sum()


def t5_step(model):
    torch.manual_seed(3)
    ids, mask = sources(1)
    return model.target_loss(ids, mask, ids[:, :7])[0]


def model_and_step(family, tiny_bert):
    """A model in training, with dropout, and its loss."""
    if family == "bert":
        return BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2), bert_step
    return T5ForConditionalGeneration(T5Config(**{**TINY, "dropout_rate": 0.2})), t5_step


def kept_bytes(step, model):
    """Of what the layers leave behind for the gradients; and those gradients."""
    sizes = {}

    def keep(x):
        sizes[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = step(model)
    loss.backward()
    return sum(sizes.values()), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients(family, tiny_bert):
    model, step = model_and_step(family, tiny_bert)
    model.train()
    before, expected = kept_bytes(step, model)
    names = list(model.state_dict())
    enable_gradient_checkpointing(model)
    after, found = kept_bytes(step, model)
    assert after < 0.7 * before
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert list(model.state_dict()) == names


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_compiled_layers_give_the_same_gradients(family, tiny_bert):
    model, step = model_and_step(family, tiny_bert)
    model.eval()
    _, expected = kept_bytes(step, model)
    compile_layers(model)
    assert all(
        layer._compiled_call_impl is not None
        for name, layer in model.named_modules()
        if name.endswith("feed_forward")
    )
    _, found = kept_bytes(step, model)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)
