"""BERT's own: heads of pre-training, shards, a real checkpoint.  test_encoders.py has the rest."""

from __future__ import annotations

import pytest
import torch
from support.encoders import BERT, transformers
from support.parity import (
    assert_close,
    assert_same_gradients,
    assert_same_hidden_states,
    random_batch,
)

from minift import BertForMaskedLM, BertForSequenceClassification, BertModel

theirs = transformers()  # skips these tests where it is not installed


@pytest.mark.parametrize("kind", ["ForPreTraining", "ForMaskedLM", "ForNextSentencePrediction"])
def test_pre_training_heads_are_ignored_by_name(tmp_path, kind):
    model = BERT.reference(kind, tmp_path)
    ours = BertModel.from_pretrained(tmp_path)
    assert_same_hidden_states(ours, model.bert, *random_batch(ours.config, seed=0))
    new_pooler = kind == "ForMaskedLM"
    assert (ours.pooler is None) == new_pooler
    classifier = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert ("encoder.pooler.weight" in classifier.load_report.new) == new_pooler


def test_a_pre_training_checkpoint_has_the_masked_language_model_head(tmp_path):
    BERT.reference("ForPreTraining", tmp_path)
    assert BertForMaskedLM.has_head(tmp_path)
    assert BertForMaskedLM.from_pretrained(tmp_path).load_report.new == ()


def test_shards_with_an_index(tmp_path):
    model = BERT.reference("Model", tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20kB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    ours = BertModel.from_pretrained(tmp_path / "shards")
    assert_same_hidden_states(ours, model, *random_batch(ours.config, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_real_checkpoint(minilm, attention):
    model = theirs.BertModel.from_pretrained(minilm).eval()
    ours = BertModel.from_pretrained(minilm, attn_implementation=attention)
    tokenizer = theirs.AutoTokenizer.from_pretrained(minilm)
    texts = ["A short one.", "It was not bad at all, and that is the surprise of the year.", "No!"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert_same_hidden_states(ours, model, ids, mask, torch.zeros_like(ids))
    pooled, expected = ours(ids, mask)[1], model(ids, mask).pooler_output
    assert_close("pooled", pooled, expected)
    pooled.square().sum().backward()
    expected.square().sum().backward()
    assert_same_gradients(ours, model)
