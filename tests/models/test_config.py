"""config.json: what is read of a start's file, and what is written of the model that is saved."""

from __future__ import annotations

import json

import pytest

from minift import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)
from minift.errors import UserError
from minift.models.base import PretrainedModel
from minift.models.bert import BertConfig
from minift.models.config import read_config
from minift.models.registry import read_model_type


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def saved_config(model: PretrainedModel, folder) -> dict:
    model.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


OTHER_HEAD = {
    "num_labels": 5,
    "label2id": {"c": 0, "b": 1, "a": 2},
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "problem_type": "regression",
    "finetuning_task": "sts-b",
    "task_specific_params": {"summarization": {"min_length": 30}},
    "torch_dtype": "float16",
    "dtype": "bfloat16",
    "quantization_config": {"load_in_8bit": True},
    "auto_map": {"AutoModel": "modeling.Model"},
    "num_beams": 4,
    "prefix": "summarize: ",
}


@pytest.mark.parametrize("model_class", [BertForSequenceClassification, BertForTokenClassification])
def test_the_keys_of_the_starts_own_head_do_not_outlive_it(tiny_bert, tmp_path, model_class):
    change_config(tiny_bert, made_by="someone", use_cache=True, **OTHER_HEAD)
    model = model_class.from_pretrained(tiny_bert, labels=["neg", "pos"])
    saved = saved_config(model, tmp_path / "saved")
    assert saved["id2label"] == {"0": "neg", "1": "pos"}
    assert saved["label2id"] == {"neg": 0, "pos": 1}
    assert saved["architectures"] == [model_class.__name__]
    assert saved["dtype"] == "float32"
    assert saved["made_by"] == "someone"  # unknown, and so kept
    assert saved["use_cache"] is True
    gone = set(OTHER_HEAD) - {"id2label", "label2id", "dtype"}
    assert not gone & set(saved)


def test_a_model_without_labels_writes_none(tiny_bert, tiny_t5, tmp_path):
    change_config(tiny_bert, **OTHER_HEAD)
    change_config(tiny_t5, **OTHER_HEAD)
    models = [
        BertModel.from_pretrained(tiny_bert),
        T5ForConditionalGeneration.from_pretrained(tiny_t5),
    ]
    for i, model in enumerate(models):
        assert set(saved_config(model, tmp_path / str(i))) & set(OTHER_HEAD) == {"dtype"}


def test_a_head_that_is_kept_keeps_its_problem_type(tiny_bert, tmp_path):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, labels=["a", "b"])
    model.save_pretrained(tmp_path)
    change_config(tmp_path, problem_type="multi_label_classification")
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.problem_type == "multi_label_classification"
    assert saved_config(again, tmp_path)["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"id2label": {"1": "a", "2": "b"}}, "id2label must map '0', '1', ... to names"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label must .* to names that differ"),
        ({"id2label": ["a", "b"]}, "id2label must map"),
        ({"problem_type": "ranking"}, "problem_type must be one of regression, .*'ranking'"),
        ({"problem_type": ["regression"]}, "problem_type must be one of"),
    ],
)
def test_labels_that_cannot_be_used_are_an_error_only_if_the_head_is_used(
    tiny_bert, tmp_path, keys, words
):
    head = BertForSequenceClassification.from_pretrained(tiny_bert, labels=["a", "b"])
    head.save_pretrained(tmp_path)
    change_config(tmp_path, **keys)
    with pytest.raises(UserError, match=rf"config\.json: {words}.*; correct it, or train"):
        BertForSequenceClassification.from_pretrained(tmp_path)
    BertModel.from_pretrained(tmp_path)
    new = BertForSequenceClassification.from_pretrained(
        tmp_path, labels=["b", "c"], reset_head=True
    )
    assert (new.config.labels, new.config.problem_type) == (("b", "c"), None)
    other = BertForQuestionAnswering.from_pretrained(tmp_path, num_labels=2)
    assert other.load_report.new == ("head.weight", "head.bias")


def test_a_model_that_transformers_would_compute_otherwise_has_a_type_of_its_own(
    tiny_bert, tmp_path
):
    for pooling, found in {"pooler": "bert", "mean": "minift-bert", "cls": "minift-bert"}.items():
        model = BertForSequenceClassification.from_pretrained(
            tiny_bert, num_labels=2, pooling=pooling
        )
        assert saved_config(model, tmp_path)["model_type"] == found
        assert (model.unlike_transformers is None) is (pooling == "pooler")
        assert read_model_type(tmp_path) == "bert"
        assert BertForSequenceClassification.from_pretrained(tmp_path).config.pooling == pooling
    # A head on every token does not depend on the pooling.
    tags = BertForTokenClassification.from_pretrained(tmp_path, num_labels=3)
    assert saved_config(tags, tmp_path)["model_type"] == "bert"
    config = BertConfig.from_dict({"model_type": "minift-bert"})
    assert config.to_dict()["model_type"] == "bert"


@pytest.mark.parametrize(
    ("keys", "gated", "activation"),
    [
        ({}, False, "relu"),
        ({"feed_forward_proj": "gated-gelu"}, True, "gelu_new"),
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}, True, "gelu"),
        ({"feed_forward_proj": "gated-silu", "is_gated_act": False}, False, "silu"),
        ({"dense_act_fn": "gelu_new", "is_gated_act": True}, True, "gelu_new"),
    ],
)
def test_the_feed_forward_layers_of_t5_are_read_as_transformers_reads_them(keys, gated, activation):
    config = T5Config.from_dict({"model_type": "t5", **keys})
    assert (config.gated, config.activation) == (gated, activation)
    saved = config.to_dict()
    assert (saved["is_gated_act"], saved["dense_act_fn"]) == (gated, activation)


def test_null_for_the_number_of_positions_means_the_default():
    assert T5Config.from_dict({"model_type": "t5", "n_positions": None}).max_tokens == 512


def test_a_folder_without_a_model_is_said_to_be_one(tmp_path):
    def message(path) -> str:
        with pytest.raises(UserError) as caught:
            read_config(path)
        return str(caught.value).removeprefix(f"{path}: ")

    end = "give the folder of a model"
    assert message(tmp_path / "nowhere") == f"no such folder; {end}"
    assert message(tmp_path) == f"holds no config.json; {end}"
    for name in ("seed1", "seed2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    inside = "(seed1, seed2 in it hold one)"
    assert message(tmp_path) == f"holds no config.json {inside}; {end}"
    file = tmp_path / "a.txt"
    file.touch()
    assert message(file) == f"is a file; {end}"
    (tmp_path / "adapter_config.json").write_text("{}")
    assert message(tmp_path).startswith("holds a LoRA adapter and no config.json;")
