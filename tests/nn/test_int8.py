"""8-bit linear layers are close to the float32 ones, and predict.py uses them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.running import run_script
from torch import nn

from minift import BertForSequenceClassification, T5Config, T5ForConditionalGeneration
from minift.errors import UserError
from minift.nn.int8 import Int8Linear, quantize_int8
from minift.nn.kernels import _succeeds


@pytest.fixture(params=[True, False], ids=["torch's operator", "plain formula"])
def _both_ways(request, monkeypatch):
    """Each test runs with torch's operator and with the formula."""
    monkeypatch.setattr("minift.nn.kernels.ENABLED", request.param)


@pytest.mark.usefixtures("_both_ways")
def test_weights_are_rounded_row_by_row():
    """The worked example of the module: rows of hundredths are exact, and so are small ones."""
    weight = torch.tensor([[0.50, -1.27, 0.02], [0.0050, -0.0127, 0.0002]])
    bias = torch.tensor([1.0, -1.0])
    x = torch.tensor([[-0.27, 1.00, 0.50], [0.0, 0.0, 0.0]])
    expected = torch.tensor([[-1.395 + 1, -0.01395 - 1], [1.0, -1.0]])
    torch.testing.assert_close(Int8Linear(weight, bias)(x), expected)
    assert torch.equal(Int8Linear(torch.zeros(2, 3), None)(x), torch.zeros(2, 2))


def test_the_formula_equals_torchs_operator(monkeypatch):
    """Up to rounding, on inputs none of which is half-way between two integers.

    Half-way either integer may be taken: which one differs between torch's own engines.
    """
    monkeypatch.setattr("minift.nn.kernels.ENABLED", True)
    if torch.backends.quantized.engine in ("none", "qnnpack"):
        pytest.skip("torch has no engine here that quantises inputs to 7 bits")
    for rows, size, lowest in [(1, 7, 0), (8, 256, -61), (300, 256, -127), (3, 2048, -20)]:
        layer = nn.Linear(size, 33, bias=size != 7)
        integers = torch.randint(lowest, lowest + 128, (rows, size)).float()
        integers[0, :2] = torch.tensor([lowest, lowest + 127])  # the ends of the range
        offsets = torch.empty(rows, size).uniform_(-0.4, 0.4)
        offsets[integers == lowest] = offsets[integers == lowest + 127] = 0
        for scale in (0.1, 3e-3, 1e-6):  # the last is below the limit
            x = (integers + offsets) * scale
            monkeypatch.setattr("minift.nn.kernels.ENABLED", True)
            operator = Int8Linear(layer.weight, layer.bias)
            monkeypatch.setattr("minift.nn.kernels.ENABLED", False)
            formula = Int8Linear(layer.weight, layer.bias)
            assert operator.prepacked is not None
            assert formula.prepacked is None
            torch.testing.assert_close(formula(x), operator(x), rtol=1e-5, atol=1e-4 * scale)
    assert operator(x[:0]).shape == formula(x[:0]).shape == (0, 33)
    assert operator(x[None]).shape == formula(x[None]).shape == (1, 3, 33)


def test_a_torch_without_the_operator_computes_the_formula(monkeypatch):
    monkeypatch.setattr("minift.nn.kernels.ENABLED", True)
    _succeeds.cache_clear()
    with monkeypatch.context() as patch:
        patch.delattr(torch, "quantize_per_channel")
        assert Int8Linear(torch.ones(2, 3)).prepacked is None
    _succeeds.cache_clear()


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("rows", [1, 8, 300])
def test_products_are_close(rows):
    layer = nn.Linear(256, 512)
    x = torch.randn(rows, 256)
    exact, found = layer(x), Int8Linear(layer.weight, layer.bias)(x)
    assert found.shape == exact.shape
    # Inputs from -4 to 4 in steps of 8 / 127 are off by 0.02 in the mean, weights by less.
    assert (found - exact).std() < 0.03 * exact.std()


@pytest.mark.usefixtures("_both_ways")
def test_a_bert(tiny_bert):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    ids = torch.randint(5, 40, (4, 9))
    quantized = quantize_int8(model)
    kinds = [type(m) for m in quantized.modules() if isinstance(m, (nn.Linear, Int8Linear))]
    assert kinds.count(Int8Linear) == 2 * 4 + 1  # of each layer four, and the pooler
    exact, found = model(ids), quantized(ids)
    assert not torch.equal(exact, found)
    torch.testing.assert_close(found, exact, atol=0.02, rtol=0.02)
    assert all(not isinstance(module, Int8Linear) for module in model.modules())


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_a_t5(tied, kind):
    config = T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    config = replace(config, tie_word_embeddings=tied, feed_forward_proj=kind)
    model = T5ForConditionalGeneration(config).eval()
    quantized = quantize_int8(model)
    assert sum(isinstance(m, nn.Linear) for m in quantized.modules()) == 0
    ids, targets = torch.randint(2, 60, (3, 8)), torch.randint(2, 60, (3, 5))
    exact = model(ids, decoder_input_ids=targets)
    found = quantized(ids, decoder_input_ids=targets)
    assert (found - exact).std() < 0.05 * exact.std()
    for beams in (1, 3):
        rows = quantized.generate(ids, max_new_tokens=6, num_beams=beams)
        assert rows.shape[0] == 3
    # The most probable token of most places is the same.
    assert (exact.argmax(-1) == found.argmax(-1)).float().mean() > 0.7


@pytest.mark.usefixtures("_both_ways")
def test_mixed_precision():
    """The products are those of float32, in the type of the input."""
    layer, x = Int8Linear(torch.randn(6, 300), torch.randn(6)), torch.randn(3, 300).bfloat16()
    expected = layer(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x.float()), expected)
        assert torch.equal(layer(x), expected.bfloat16())


def test_not_on_a_gpu(monkeypatch):
    model = T5ForConditionalGeneration(T5Config(vocab_size=9, d_model=8, d_kv=4, num_layers=1))
    monkeypatch.setattr(type(model), "device", torch.device("cuda:0"))
    with pytest.raises(UserError, match="--int8 is for the CPU, but --device is cuda:0"):
        quantize_int8(model)


def test_predicting(tiny_bert, reviews, tmp_path):
    flags = ("--model", tiny_bert, "--train-file", reviews["train"], "--dev-file", reviews["dev"])
    run = tmp_path / "run"
    run_script("train_classification", *flags, "--epochs", "1", "--output-dir", run)
    exact, quantized = (
        run_script("predict", run, "the film was good", *more).stdout.split("\t")
        for more in ((), ("--int8",))
    )
    assert exact[0] == quantized[0]
    probabilities = [
        float(part.split("=")[1]) for part in (*exact[1].split(), *quantized[1].split())
    ]
    assert probabilities[0] == pytest.approx(probabilities[2], abs=0.02)
