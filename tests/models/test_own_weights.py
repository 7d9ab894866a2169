"""The T5 that comes with minift: its size and card, and that it copies words of a text."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from support.running import ROOT

from minift import T5ForConditionalGeneration, Tokenizer
from minift.data.read import builtin, read_summaries
from minift.tasks.summarization import SummarizationOptions

FOLDER = ROOT / "weights" / "minift-t5-mini"


def test_the_default_model_is_small_and_in_half_precision():
    assert SummarizationOptions().model == FOLDER.name
    assert (FOLDER / "model.safetensors").stat().st_size <= 25e6
    with safe_open(FOLDER / "model.safetensors", framework="pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds == {"F16"}
    config = json.loads((FOLDER / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"]) == ("t5", 8000)
    settings = json.loads((FOLDER / "tokenizer_config.json").read_text())
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    assert settings["model_max_length"] == 512
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for word in ("Licence", "CC BY-SA", "steps", "held-out"):
        assert word in card, word


@pytest.mark.slow
def test_without_fine_tuning_it_already_copies_words_of_the_text():
    model, tokenizer = (c.from_pretrained(FOLDER) for c in (T5ForConditionalGeneration, Tokenizer))
    records = read_summaries(builtin("reports.test.jsonl"))[:12]
    shares = []
    for record in records:
        (ids,) = tokenizer.ids([f"summarize: {record.document}"])
        source = torch.tensor([[*ids, tokenizer.eos_token_id]])
        found = model.generate(source, max_new_tokens=48)[0].tolist()
        said = tokenizer.decode(found).lower().split()
        there = set(record.document.lower().split())
        assert len(said) >= 5
        shares.append(sum(word in there for word in said) / len(said))
    assert sum(shares) / len(shares) > 0.8
