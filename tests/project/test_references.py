"""Outputs equal those of `transformers` that tests/references holds.

Where `transformers` is installed, a test checks that it still gives the recorded outputs.
"""

from __future__ import annotations

import json

import pytest
import torch
from support import running
from support.parity import assert_close, gradients_as_on_disk
from support.running import ROOT

from minift import BertForSequenceClassification, BertModel, Tokenizer

REFERENCES = ROOT / "tests" / "references"
RECORDED = json.loads((REFERENCES / "bert.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recorder():
    return running.recorder("record_bert")


def test_every_number_of_a_tiny_model(recorder):
    expected = RECORDED["tiny"]
    model = BertForSequenceClassification.from_pretrained(REFERENCES / "tiny-bert")
    ids, mask, types = map(torch.tensor, (recorder.IDS, recorder.MASK, recorder.TYPES))
    real = mask.bool()
    states = model.encoder.hidden_states(ids, mask, types)
    for i, ((x, packing), state) in enumerate(zip(states, expected["hidden_states"], strict=True)):
        assert_close(f"state {i}", packing.pad(x)[real], torch.tensor(state)[real])
    assert_close("pooled", model.encoder(ids, mask, types)[1], torch.tensor(expected["pooled"]))
    logits = model(ids, mask, types)
    assert_close("logits", logits, torch.tensor(expected["logits"]))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(recorder.LABELS))
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    loss.backward()
    gradients = gradients_as_on_disk(model)
    assert gradients.keys() == expected["gradients"].keys()
    for name, norm in expected["gradients"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, abs=1e-5), name


def test_the_real_checkpoint_from_text_to_vectors(minilm):
    """From text to vectors: sentences -> ids -> hidden states -> pooled vectors."""
    expected = RECORDED["minilm"]
    tokenizer = Tokenizer.from_pretrained(minilm)
    encodings = tokenizer.encode(expected["sentences"])
    assert [encoding.ids for encoding in encodings] == expected["ids"]
    model = BertModel.from_pretrained(minilm)
    for i, encoding in enumerate(encodings):
        hidden, pooled = model(torch.tensor([encoding.ids]))
        assert_close("hidden", hidden[0, :3, :8], torch.tensor(expected["hidden"][i]))
        assert_close("pooled", pooled[0, :8], torch.tensor(expected["pooled"][i]))


def test_transformers_still_gives_the_recorded_outputs(recorder):
    pytest.importorskip("transformers", reason="recomputes the outputs of transformers")
    now = recorder.outputs_of_tiny(REFERENCES / "tiny-bert")
    for key in ("hidden_states", "pooled", "logits", "loss"):
        assert_close(key, torch.tensor(now[key]), torch.tensor(RECORDED["tiny"][key]))
    for name, norm in RECORDED["tiny"]["gradients"].items():
        assert now["gradients"][name] == pytest.approx(norm, abs=1e-5)
