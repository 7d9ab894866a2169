"""The initial model, the outputs of a frozen encoder, and the saved settings."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from minift import (
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    Tokenizer,
)
from minift.errors import UserError
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.loading import load_initial_model, load_task, save_task
from minift.tasks.ner import NerOptions, NerTask
from minift.tasks.options import TaskOptions
from minift.tasks.registry import TASKS


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("family", ["tiny_bert", "tiny_t5"])
def test_dropout_sets_every_dropout_of_the_model(family, dropout, request):
    folder = request.getfixturevalue(family)
    name, labels = ("summarization", None) if family == "tiny_t5" else ("ner", ("O", "B-X"))
    model_class = TASKS[name].model_class(folder)
    model, _, _ = load_initial_model(TaskOptions(dropout=dropout), folder, model_class, labels)
    fields = {name for name in vars(model.config) if "dropout" in name}
    assert fields == set(model.config.dropouts)
    assert {getattr(model.config, name) for name in fields} == {dropout}
    checkpoint = type(model.config).from_pretrained(folder)
    kept, _, _ = load_initial_model(TaskOptions(), folder, model_class, labels)
    for name in fields:
        assert getattr(kept.config, name) == getattr(checkpoint, name)


def test_there_is_one_dropout_option():
    names = {name for name in TaskOptions.__dataclass_fields__ if "dropout" in name}
    assert names == {"dropout"}
    with pytest.raises(ValueError, match=r"--dropout is 1\.5; it must be from 0 to 0.99"):
        TaskOptions(dropout=1.5)


def test_from_scratch_with_a_frozen_encoder_trains_the_head_on_its_outputs(tiny_bert, reviews):
    options = ClassificationOptions(
        model=str(tiny_bert), train_file=reviews["train"], from_scratch=True
    )
    task, model, splits = ClassificationTask.from_options(options)
    features = task.precompute_encoder_outputs(model, task.featurize(splits["train"][:4]), 2)
    assert all(feature.encoder_outputs.shape == (32,) for feature in features)


def test_a_new_pooler_with_a_frozen_encoder_is_refused(tiny_bert, reviews, tmp_path):
    options = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"])
    task, model, _ = ClassificationTask.from_options(options)
    model.load_report = replace(model.load_report, new=("encoder.pooler.weight",))
    with pytest.raises(UserError, match=r"no bert.pooler.dense.weight.*use --pooling cls or mean"):
        task.precompute_encoder_outputs(model, [], 2)


def test_outputs_of_a_frozen_encoder_have_no_padding(tiny_bert, tmp_path):
    train = tmp_path / "train.conll"
    train.write_text("bo B-PER\nwas O\n\nit O\nwas O\nso O\ngood O\n")
    task, model, splits = NerTask.from_options(NerOptions(model=str(tiny_bert), train_file=train))
    features = task.featurize(splits["train"], training=True)
    frozen = task.precompute_encoder_outputs(model, features, batch_size=2)
    for feature in frozen:
        assert feature.encoder_outputs.shape == (feature.length, 32)
    assert task.collate(frozen).encoder_outputs.shape == (2, max(f.length for f in features), 32)
    with torch.no_grad():
        expected = task.loss(model, task.collate(features))
        torch.testing.assert_close(task.loss(model, task.collate(frozen)), expected)


def test_a_setting_under_its_old_name_is_refused_and_not_ignored(tiny_bert, tmp_path):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    save_task(model, Tokenizer.from_pretrained(tiny_bert), tmp_path, overlap=3)
    with pytest.raises(UserError, match="'overlap' under \"minift\" is now 'doc_stride'"):
        load_task(tmp_path, BertForSequenceClassification)


def test_a_saved_value_that_is_not_allowed_names_the_file(tiny_bert, tmp_path):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    tokenizer = Tokenizer.from_pretrained(tiny_bert)
    save_task(model, tokenizer, tmp_path, text_column="3", r_drop=-1)
    task, _ = ClassificationTask.from_pretrained(tmp_path)
    assert (task.options.text_column, task.options.r_drop) == ("3", 0.0)  # not a saved option

    model = BertForTokenClassification.from_pretrained(tiny_bert, labels=("O", "B-PER", "I-PER"))
    save_task(model, tokenizer, tmp_path, doc_stride=-1)
    with pytest.raises(UserError, match=r'config.json: --doc-stride is -1.*under "minift"'):
        NerTask.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"truncation": "foo"}, r"truncation is 'foo'; it must be 'head' or"),
        ({"text_column": [1]}, r"text_column is \[1\]; it must be of type str"),
        ({"max_length": "abc"}, r"max_length is 'abc'; it must be of type int"),
        ({"max_length": True}, r"max_length is True; it must be of type int"),
        ({"max_length": 0}, r"max_length is 0; it must be from 3 to 64"),
        ({"max_length": 9999}, r"max_length is 9999; it must be from 3 to 64"),
    ],
)
def test_a_saved_value_of_another_type_names_the_file(tiny_bert, tmp_path, setting, words):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    save_task(model, Tokenizer.from_pretrained(tiny_bert), tmp_path, **setting)
    with pytest.raises(UserError, match=rf'config.json: {words}.*; correct it under "minift"'):
        ClassificationTask.from_pretrained(tmp_path)


def test_a_number_of_rows_keeps_only_a_head_that_has_as_many(tiny_bert, tmp_path):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, labels=["a", "b"])
    model.save_pretrained(tmp_path)
    Tokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    kept, _, _ = load_initial_model(TaskOptions(), tmp_path, BertForSequenceClassification, 2)
    assert torch.equal(kept.head.weight, model.head.weight)
    other, _, _ = load_initial_model(TaskOptions(), tmp_path, BertForSequenceClassification, 1)
    assert other.load_report.new == ("head.weight", "head.bias")


def test_an_option_that_the_family_lacks_is_refused_by_its_value(tiny_bert, tmp_path):
    options, model_class = TaskOptions(model="x"), DistilBertForSequenceClassification
    folder = tmp_path / "distilbert"
    DistilBertModel(DistilBertConfig(hidden_size=12)).save_pretrained(folder)
    with pytest.raises(UserError, match="x: pooling is 'pooler'; it must be one of 'cls', 'mean'"):
        load_initial_model(options, folder, model_class, 2, pooling="pooler")


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused_before_training_and_prediction(
    tiny_bert, tmp_path
):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, labels=["a", "b"])
    rows = model.config.vocab_size
    save_task(model, Tokenizer.from_pretrained(tiny_bert), tmp_path)
    (tmp_path / "manifest.json").unlink()
    path = tmp_path / "tokenizer.json"
    state = json.loads(path.read_text())
    model_state = state["model"]
    # As many tokens as rows, but one has another id.
    del model_state["vocab"][next(t for t, i in model_state["vocab"].items() if i == rows - 1)]
    model_state["vocab"]["rare"] = rows - 1
    path.write_text(json.dumps(state))
    load_task(tmp_path, BertForSequenceClassification)
    model_state["vocab"]["rare"] = rows
    path.write_text(json.dumps(state))
    assert len(model_state["vocab"]) == rows
    message = f"the tokenizer has ids up to {rows}, but the model only {rows} embeddings; use"
    with pytest.raises(UserError, match=message):
        load_task(tmp_path, BertForSequenceClassification)
    with pytest.raises(UserError, match=message):
        load_initial_model(TaskOptions(), tmp_path, BertForSequenceClassification, 2)
