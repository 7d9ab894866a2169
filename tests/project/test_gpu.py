"""A GPU computes the same as the CPU, although by other kernels."""

from __future__ import annotations

import random

import pytest
import torch
from support.attention import MASKS, assert_gradients_use_the_weights_that_were_kept
from support.running import run_script
from support.tiny_t5 import TINY, random_settings, sources

from minift.device import autocast
from minift.generation.cache import DecoderState
from minift.models.bert import BertConfig, BertForSequenceClassification
from minift.models.t5 import T5Config, T5ForConditionalGeneration
from minift.nn.attention import packed_attention
from minift.nn.kernels import has_varlen_attention
from minift.nn.packing import pack

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def assert_near(found, expected, close):
    torch.testing.assert_close(found.float().cpu(), expected.float(), atol=close, rtol=close)


def assert_attention_is_that_of_the_cpu(rows, kind, cls_only):
    mask = torch.tensor(rows)
    x = torch.randn(int(mask.sum()), 3, 2, 16)
    results = {}
    for device in ("cpu", "cuda"):
        leaf = x.to(device, torch.float64 if device == "cpu" else kind).requires_grad_()
        packing = pack(mask.to(device))
        q, k, v = leaf.unbind(1)
        mixed = packed_attention(
            packing.cls_tokens(q) if cls_only else q, k, v, packing, cls_only=cls_only
        )
        mixed.sin().sum().backward()
        results[device] = mixed, leaf.grad
    for found, expected in zip(results["cuda"], results["cpu"], strict=True):
        assert_near(found, expected, 2e-2 if kind.itemsize == 2 else 1e-5)


@pytest.mark.parametrize("cls_only", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_attention_and_its_gradients(rows, kind, cls_only):
    assert_attention_is_that_of_the_cpu(rows, kind, cls_only)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_attention_has_a_variable_length_kernel(kind, monkeypatch):
    """Every GPU has one for these; for bfloat16 only newer ones, and none for float64."""
    monkeypatch.setattr("minift.nn.kernels.ENABLED", True)
    q = torch.ones(3, 2, 16, device="cuda", dtype=kind)
    assert has_varlen_attention(q)
    assert not has_varlen_attention(q.double())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_on_a_gpu_without_the_flash_kernel(kind, monkeypatch):
    def refuse(*_):
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")

    monkeypatch.setattr("minift.nn.kernels._flash", refuse)
    assert_attention_is_that_of_the_cpu(MASKS["right padding"], kind, cls_only=False)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_gradients_use_the_weights_that_were_kept(kind):
    close = 1e-2 if kind is torch.bfloat16 else 1e-5
    assert_gradients_use_the_weights_that_were_kept("cuda", kind, close)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_bert(precision):
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        labels=("a", "b"),
    )
    model = BertForSequenceClassification(config).eval()
    ids, mask = torch.randint(50, (4, 9)), torch.ones(4, 9, dtype=torch.int64)
    mask[1, 4:] = 0
    mask[2, :3] = 0
    model(ids, mask).square().sum().backward()
    expected = gradients(model)
    model.zero_grad()
    model.cuda()
    with autocast(model.device, precision):
        loss = model(ids.cuda(), mask.cuda()).float().square().sum()
    loss.backward()
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_near(found[name], gradient, 1e-4 if precision == "fp32" else 0.1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_t5(precision):
    model = T5ForConditionalGeneration(T5Config(**TINY)).eval()
    ids, mask = sources(1)
    labels = torch.randint(2, 61, (4, 7))
    labels[0, 3:] = -100
    model.target_loss(ids, mask, labels)[0].backward()
    expected = gradients(model)
    model.zero_grad()
    model.cuda()
    with autocast(model.device, precision):
        loss, _ = model.target_loss(ids.cuda(), mask.cuda(), labels.cuda())
    loss.backward()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        found = model.get_parameter(name).grad / largest
        assert_near(found, gradient / largest, 1e-4 if precision == "fp32" else 0.1)


@pytest.mark.parametrize("number", range(8))
def test_recorded_steps_generate_what_the_cpu_does(number):
    draw = random.Random(number)
    torch.manual_seed(number)
    model = T5ForConditionalGeneration(T5Config(**TINY)).double().eval()
    settings = random_settings(draw, beams=number % 2 == 1)
    ids, mask = sources(number)
    expected = model.generate(ids, mask, **settings)
    found = model.cuda().generate(ids.cuda(), mask.cuda(), **settings)
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("first", [1, 5, 1000])
@pytest.mark.parametrize("beams", [1, 3])
def test_steps_are_recorded_again_where_the_cache_grows(first, beams, monkeypatch):
    monkeypatch.setattr("minift.generation.cache.FIRST_CAPACITY", first)
    model = T5ForConditionalGeneration(T5Config(**TINY)).double().eval()
    ids, mask = sources(4)
    settings = {"max_new_tokens": 30, "min_new_tokens": 30, "num_beams": beams}
    expected = model.generate(ids, mask, **settings)
    found = model.cuda().generate(ids.cuda(), mask.cuda(), **settings)
    assert torch.equal(found.cpu(), expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU here")
@pytest.mark.parametrize("beams", [1, 3])
def test_a_gpu_that_is_not_the_current_one(beams):
    """Its own streams and graphs: the current device stays the first."""
    model = T5ForConditionalGeneration(T5Config(**TINY)).double().eval()
    ids, mask = sources(5)
    expected = model.generate(ids, mask, max_new_tokens=12, num_beams=beams)
    first = model.to("cuda:0").generate(ids.to("cuda:0"), mask.to("cuda:0"), max_new_tokens=3)
    assert torch.cuda.current_device() == 0
    model.to("cuda:1")
    found = model.generate(ids.to("cuda:1"), mask.to("cuda:1"), max_new_tokens=12, num_beams=beams)
    assert (first.device.index, found.device.index) == (0, 1)
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("mixed", [True, False])
def test_recorded_steps_in_half_precision(beams, mixed, monkeypatch):
    model = T5ForConditionalGeneration(T5Config(**TINY)).cuda().eval()
    model = model if mixed else model.to(torch.bfloat16)
    ids, mask = (x.cuda() for x in sources(3))
    with autocast(model.device, "bf16" if mixed else "fp32"):
        found = model.generate(ids, mask, max_new_tokens=12, num_beams=beams)
        monkeypatch.setattr(DecoderState, "_record", lambda decoder: decoder._static_step)
        expected = model.generate(ids, mask, max_new_tokens=12, num_beams=beams)
    assert torch.equal(found, expected)


def test_a_script_trains_on_a_gpu(tiny_bert, reviews, tmp_path):
    done = run_script(
        "train_classification",
        *("--model", tiny_bert, "--output-dir", tmp_path / "run", "--epochs", 3),
        *("--train-file", reviews["train"], "--dev-file", reviews["dev"]),
        *("--device", "cuda", "--precision", "bf16", "--learning-rate", "5e-3"),
    )
    assert "the best model is in" in done.stdout
