"""The files of a model's folder that somebody else made: read once, within bounds, or refused."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, get_type_hints

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.corruptions import NO_FILES, replace_file

import minift
from minift import (
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    T5ForConditionalGeneration,
    Tokenizer,
    weights,
)
from minift.errors import UserError
from minift.files import is_present, read_json, write_manifest
from minift.models.adapters import add_lora, load_adapter, save_adapter
from minift.models.config import MAX_LABELS
from minift.nn.lora import LoraConfig
from minift.predictor import predict_lines
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.loading import save_task
from minift.tasks.registry import TASKS, task_of
from minift.training.state import TrainerState

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs and few links")
CONFIGS = [minift.BertConfig, minift.DistilBertConfig, minift.T5Config]
NUMBERS = (int, float, int | None, float | None)


@pytest.fixture
def classifier(tiny_bert, tmp_path):
    """A folder as training writes it, with its manifest."""
    folder = tmp_path / "classifier"
    model = BertForSequenceClassification.from_pretrained(tiny_bert, labels=["neg", "pos"])
    save_task(model, Tokenizer.from_pretrained(tiny_bert), folder, task="classification")
    return folder


@pytest.fixture
def unlisted(classifier):
    """The same without the manifest, which would refuse every change."""
    (classifier / "manifest.json").unlink()
    return classifier


def refusal(folder) -> str:
    with pytest.raises(UserError) as caught:
        list(predict_lines(folder, ["the good film"], as_json=True))
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 500
    return message


def change_config(folder, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# ---- a name that is no regular file ------------------------------------------------------------


@posix
@pytest.mark.parametrize("kind", [kind for kind in NO_FILES if kind != "unreadable"])
@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "manifest.json"),
    ],
)
def test_what_is_no_file_is_never_taken_for_an_absent_one(classifier, name, kind):
    if name != "manifest.json":
        (classifier / "manifest.json").unlink()
    replace_file(classifier / name, kind)
    assert refusal(classifier).startswith(f"{classifier / name}")


@posix
@pytest.mark.skipif(os.name != "nt" and os.getuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "manifest.json"])
def test_a_file_that_may_not_be_read_is_an_error(classifier, name):
    replace_file(classifier / name, "unreadable")
    assert "cannot be read (Permission denied)" in refusal(classifier)


@posix
def test_a_link_to_a_regular_file_is_that_file(unlisted):
    expected = list(predict_lines(unlisted, ["the good film"], as_json=True))
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        other = unlisted.parent / name
        (unlisted / name).rename(other)
        (unlisted / name).symlink_to(other)
    assert list(predict_lines(unlisted, ["the good film"], as_json=True)) == expected


def make_shards(folder) -> list[str]:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = ["a.safetensors", "b.safetensors"]
    for i, name in enumerate(names):
        save_file({n: tensors[n] for n in sorted(tensors)[i::2]}, folder / name)
    index = {"weight_map": {n: names[i % 2] for i, n in enumerate(sorted(tensors))}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return names


@posix
@pytest.mark.parametrize("kind", ["FIFO", "dangling link", "link to /dev/zero"])
def test_a_shard_or_an_index_that_is_no_file(unlisted, kind):
    names = make_shards(unlisted)
    assert task_of(unlisted).from_pretrained(unlisted)
    for name in (*names, "model.safetensors.index.json"):
        (unlisted / name).rename(unlisted / "whole")
        replace_file(unlisted / name, kind)
        assert name in refusal(unlisted)
        (unlisted / name).unlink()
        (unlisted / "whole").rename(unlisted / name)


@pytest.fixture
def adapter(tiny_bert, tmp_path):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(add_lora(model, LoraConfig(rank=2)), folder)
    return folder


def adapter_refusal(tiny_bert, folder) -> str:
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    with pytest.raises(UserError) as caught:
        load_adapter(model, folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@posix
@pytest.mark.parametrize("kind", ["FIFO", "dangling link", "link to /dev/zero", "folder", "sparse"])
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_of_an_adapter_that_is_no_file(tiny_bert, adapter, name, kind):
    replace_file(adapter / name, kind)
    assert name in adapter_refusal(tiny_bert, adapter)


# ---- the manifest ------------------------------------------------------------------------------


def manifest_of(folder, **entry) -> str:
    return json.dumps({"files": {"config.json": entry}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "it is not a JSON object"),
        ("{}", "has no 'files'"),
        ('{"files": []}', "has no 'files'"),
        ('{"files": {"config.json": 3}}', "has no size and SHA-256"),
        ('{"files": {"config.json": {}}}', "has no size and SHA-256"),
        ('{"files": {"config.json": {"bytes": true, "sha256": "x"}}}', "has no size and SHA-256"),
        ('{"files": {"config.json": {"bytes": 1, "sha256": ["x"]}}}', "has no size and SHA-256"),
    ],
)
def test_a_damaged_manifest_does_not_switch_the_check_off(classifier, text, words):
    (classifier / "manifest.json").write_text(text)
    assert words in refusal(classifier)


def test_a_file_that_the_manifest_lists_must_be_there(classifier):
    (classifier / "tokenizer_config.json").unlink()
    message = refusal(classifier)
    assert "tokenizer_config.json: is missing, but manifest.json lists it" in message


def test_a_file_that_the_manifest_does_not_list_may_be_absent_or_new(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    write_manifest(tmp_path, ["a.json"])
    assert is_present(tmp_path / "a.json")
    assert not is_present(tmp_path / "b.json")
    (tmp_path / "b.json").write_text("[]")
    assert read_json(tmp_path / "b.json") == []


# ---- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("9" * 5000, "holds an integer of 5,000 digits"),
        ("[" * 150 + "]" * 150, "is nested more than 100 deep"),
        ("[" * 100_000 + "]" * 100_000, "is nested more than 100 deep"),
        ("[" + "0," * 1_000_000 + "0]", "holds more than 1,000,000 values"),
        ("NaN", "holds the number NaN, which is not finite"),
        ("-Infinity", "holds the number -Infinity, which is not finite"),
        ("1e999", "holds the number 1e999, which is not finite"),
        ('"\\ud800"', "holds half of a surrogate pair"),
        ('{"\\udfff": 1}', "holds half of a surrogate pair"),
        ('{"a": 1, "b": 2, "a": 1}', "holds the key 'a' twice in one object"),
        ('"' + "x" * 20_000_000 + '"', "more than the 20,000,000 that minift reads"),
    ],
    ids=lambda value: value[:12],
)
def test_json_beyond_the_bounds_is_refused_in_every_file(unlisted, value, words):
    for name in ("config.json", "tokenizer_config.json"):
        path = unlisted / name
        before = path.read_text()
        path.write_text(before.rstrip()[:-1] + f', "extra": {value}}}')
        message = refusal(unlisted)
        assert name in message
        assert words in message
        path.write_text(before)


def test_json_within_the_bounds_is_read(tmp_path):
    path = tmp_path / "a.json"
    limit = 1000000000000000019884624838656  # many a model_max_length
    value = {"a": limit, "b": [[[1e-300, -0.0, True, None]]], "\U0001f642": "\u202e"}
    path.write_text(json.dumps(value))
    assert read_json(path) == value


# ---- config.json -------------------------------------------------------------------------------

FIELDS = [
    pytest.param(config, field, id=f"{config.model_type} {field.name}")
    for config in CONFIGS
    for field in dataclasses.fields(config)
    if field.name not in ("head_error", "other_keys", "labels", "problem_type")
]


@pytest.mark.parametrize(("config", "field"), FIELDS)
def test_every_field_has_a_type_and_every_number_bounds(config, field):
    hint = get_type_hints(config)[field.name]
    wrong: list[Any] = [[0], {"0": 1}, b"x", 10**30, -1, -(10**30), "none such", "\x1b[2J" * 99]
    if hint in NUMBERS:
        wrong += [True, "3", float("nan"), float("inf"), 1e300]
    if hint in (int, int | None):
        wrong += [1.0, 2.5]
    if field.name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
        wrong += [10**6]
    if hint in (bool, bool | None):
        wrong += [0, 1, "true"]
    for value in wrong:
        with pytest.raises(ValueError, match=field.name) as caught:
            config(**{field.name: value})
        assert len(str(caught.value)) < 350
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": ["bert"]}, "model_type is ['bert']; it must be of type str or null"),
        ({"model_type": None}, "model_type is None"),
        ({"architectures": [1]}, "architectures is [1]; it must be a list of str"),
        ({"architectures": 3}, "architectures is 3; it must be a list of str or null"),
        ({"architectures": "BertModel"}, "architectures is 'BertModel'; it must be a list of str"),
        ({"num_labels": [2]}, "num_labels is [2]; it must be of type int or null"),
        ({"num_labels": 2.0}, "num_labels is 2.0; it must be of type int or null"),
        ({"minift": 3}, "minift is 3; it must be an object"),
        ({"minift": {"task": ["ner"]}}, "the model's task is ['ner'], which is none of"),
        ({"minift": {"task": "classification", "max_length": -1}}, "max_length is -1"),
        ({"minift": {"task": "classification", "max_length": 10**30}}, "max_length is 1000"),
        ({"minift": {"task": "classification", "pairs": 1}}, "pairs is 1"),
        ({"id2label": {"0": ["neg"], "1": "pos"}}, "id2label must map '0', '1', ... to names"),
        ({"id2label": {"0": True, "1": "pos"}}, "id2label must map '0', '1', ... to names"),
        ({"id2label": {}}, "id2label must map '0', '1', ... to names"),
        ({"id2label": {str(i): f"L{i}" for i in range(MAX_LABELS + 1)}}, "id2label must map"),
        ({"id2label": {str(i): f"L{i}" for i in range(10**6)}}, "more than the 20,000,000 that"),
        ({"is_decoder": 0}, "is_decoder is 0; only False is supported"),
        ({"hidden_size": "x" * 10**6}, "hidden_size is 'xxx"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_odd_values_in_config_json_are_refused_by_name(unlisted, values, words):
    change_config(unlisted, **values)
    assert words in refusal(unlisted)


def test_labels_may_be_integers_and_hold_control_characters(unlisted):
    change_config(unlisted, id2label={"0": 7, "1": "\x1b[2J\n"})
    (row,) = predict_lines(unlisted, ["the good film"], as_json=True)
    assert set(json.loads(row)["probabilities"]) == {"7", "\x1b[2J\n"}
    assert row.isprintable()


OPTIONS = [(task, name) for task in TASKS.values() for name in task.saved_options]


@pytest.mark.parametrize(("task", "name"), OPTIONS, ids=lambda value: getattr(value, "name", value))
def test_every_setting_that_is_saved_has_a_type(task, name, tiny_bert, tiny_t5, tmp_path):
    if task.name == "summarization":
        source, model = tiny_t5, T5ForConditionalGeneration.from_pretrained(tiny_t5)
    else:
        source, model_class = tiny_bert, task.model_class(tiny_bert)
        model = model_class.from_pretrained(source, num_labels=2)
    task_class = task
    save_task(model, Tokenizer.from_pretrained(source), tmp_path, task=task.name)
    (tmp_path / "manifest.json").unlink()
    for value in ([], {}, [["x"]], True, 1e300):
        change_config(tmp_path, minift={"task": task.name, name: value})
        with pytest.raises(UserError, match=f"{name.replace('_', '.')} is ") as caught:
            task_class.from_pretrained(tmp_path)
        assert str(tmp_path / "config.json") in str(caught.value)


def test_a_head_has_at_most_as_many_labels_as_can_be_read_again(tiny_bert):
    for labels in (map(str, range(MAX_LABELS + 1)), ["x" * 600_000, "y" * 600_000]):
        with pytest.raises(UserError, match=r"at most 100,000 labels of 1,000,000 characters"):
            BertForTokenClassification.from_pretrained(tiny_bert, labels=list(labels))


# ---- weights -----------------------------------------------------------------------------------


def change_weights(path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_each_file_of_weights_is_opened_once(unlisted, monkeypatch):
    opened = []
    original = weights.safe_open
    monkeypatch.setattr(weights, "safe_open", lambda p, **k: opened.append(p) or original(p, **k))
    names = make_shards(unlisted)
    BertForSequenceClassification.from_pretrained(unlisted)
    assert opened == [unlisted / name for name in names]


def with_header(tensors: bytes, entries: dict) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + tensors


def stray(count: int, offset: int) -> dict:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [offset, offset]}
    return {f"stray.{i}": entry for i in range(count)}


@pytest.mark.parametrize(
    ("count", "words"), [(1000, "'stray.0' (0,) is not part of"), (200_000, "its header has 1")]
)
def test_stray_tensors_are_refused(unlisted, count, words):
    path = unlisted / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + size]), data[8 + size :]
    path.write_bytes(with_header(tensors, {**header, **stray(count, len(tensors))}))
    assert words in refusal(unlisted)


@pytest.mark.parametrize("shape", [[], [10**9, 0], [0, 32]])
def test_the_head_of_an_absurd_shape_is_refused(unlisted, shape):
    path = unlisted / "model.safetensors"
    change_weights(path, lambda t: t.pop("classifier.weight"))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + size]), data[8 + size :]
    end = len(tensors) + 4 * (shape == [])
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [len(tensors), end]}
    tensors += b"\x00" * (end - len(tensors))
    path.write_bytes(with_header(tensors, {**header, "classifier.weight": entry}))
    message = refusal(unlisted)
    assert "classifier.weight" in message
    assert "a head has from 1 to 100,000 labels" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused_in_prediction_and_training(
    unlisted, reviews, value
):
    name = "bert.encoder.layer.1.output.dense.weight"
    path = unlisted / "model.safetensors"
    change_weights(path, lambda tensors: tensors[name].view(-1)[5:6].fill_(value))
    words = f"model.safetensors: the tensor '{name}' holds NaN or infinity"
    assert words in refusal(unlisted)
    options = ClassificationOptions(model=str(unlisted), train_file=reviews["train"])
    with pytest.raises(UserError, match=words):
        ClassificationTask.from_options(options)
    with pytest.raises(UserError, match=words):
        BertModel.from_pretrained(unlisted)


def test_a_value_that_overflows_float32_is_refused(unlisted):
    name = "classifier.bias"
    path = unlisted / "model.safetensors"
    change_weights(path, lambda t: t.update({name: torch.tensor([1e300, 0.0]).double() * 1.0}))
    assert "holds NaN or infinity" in refusal(unlisted)


def test_an_adapter_that_is_not_finite_is_refused(tiny_bert, adapter):
    path = adapter / "adapter_model.safetensors"
    change_weights(path, lambda tensors: next(iter(tensors.values())).fill_(float("nan")))
    assert "holds NaN or infinity" in adapter_refusal(tiny_bert, adapter)


# ---- adapters and training states --------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"r": 10**30}, "rank is 1000"),
        ({"r": True}, "r is True; it must be of type int"),
        ({"r": 2.0}, "r is 2.0; it must be of type int"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'; it must be of type float"),
        ({"lora_dropout": -1}, "dropout is -1"),
        ({"target_modules": "all-linear"}, "target_modules is 'all-linear'; it must be a list"),
        ({"target_modules": [None]}, "target_modules is [None]; it must be a list of str"),
        ({"target_modules": ["x" * 10**6]}, "target_modules is ['xxx"),
        ({"init_lora_weights": 1}, "init_lora_weights is 1; it must be of type bool or 'gaussian'"),
        ({"peft_type": ["LORA"]}, "peft_type is ['LORA']; it must be 'LORA'"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3"),
        ({"\x1b[2J": 1}, r"'\x1b[2J' is 1, which minift's LoRA does not do"),
    ],
)
def test_odd_values_in_adapter_config_json_are_refused_by_name(tiny_bert, adapter, values, words):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    assert words in adapter_refusal(tiny_bert, adapter)


@pytest.mark.parametrize(
    "values",
    [{"step": "x"}, {"step": -1}, {"step": True}, {"best_score": []}, {"orders": [3]}, {"x": 1}],
)
def test_the_numbers_of_a_training_state_have_types(values):
    state = dataclasses.asdict(TrainerState())
    assert TrainerState.from_dict(state) == TrainerState()
    with pytest.raises((TypeError, ValueError)):
        TrainerState.from_dict({**state, **values})
