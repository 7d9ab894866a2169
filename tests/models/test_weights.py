"""Loading accepts the documented variants of a checkpoint and refuses all others by name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from minift import BertForSequenceClassification, BertModel
from minift.errors import UserError
from minift.models.bert import BertConfig

QUERY = "encoder.layer.1.attention.self.query.weight"


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def hidden(folder):
    ids = torch.tensor([[2, 7, 8, 9, 3]])
    return BertModel.from_pretrained(folder)(ids)[0]


def test_saving_and_loading_is_the_identity(tiny_bert, tmp_path):
    model = BertModel.from_pretrained(tiny_bert)
    assert not model.training
    model.save_pretrained(tmp_path / "copy")
    first, second = (load_file(f / "model.safetensors") for f in (tiny_bert, tmp_path / "copy"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads((tiny_bert / "config.json").read_text()) == json.loads(
        (tmp_path / "copy" / "config.json").read_text()
    )


def test_variants_of_the_same_checkpoint(tiny_bert):
    expected = hidden(tiny_bert)

    def vary(tensors):
        for name in list(tensors):
            new = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            new = new.replace("LayerNorm.bias", "LayerNorm.beta")
            tensors["bert." + new] = tensors.pop(name)
        word = tensors["bert.embeddings.word_embeddings.weight"]
        tensors["bert.embeddings.position_ids"] = torch.arange(64)[None]
        tensors["cls.predictions.decoder.weight"] = word.clone()
        tensors["cls.predictions.bias"] = torch.zeros(len(word))
        tensors["cls.seq_relationship.weight"] = torch.zeros(2, 32)

    change_weights(tiny_bert, vary)
    assert torch.equal(hidden(tiny_bert), expected)
    report = BertModel.from_pretrained(tiny_bert).load_report
    assert "counts 0, 1, 2" in report.ignored["embeddings.position_ids"]
    assert len(report.ignored) == 4


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module._orig_mod.", "bert._orig_mod."]
)
def test_prefixes_of_compiled_and_distributed_models_are_read(tiny_bert, prefix):
    expected = hidden(tiny_bert)

    def rename(tensors):
        return [tensors.update({prefix + name: tensors.pop(name)}) for name in list(tensors)]

    change_weights(tiny_bert, rename)
    assert torch.equal(hidden(tiny_bert), expected)
    change_weights(tiny_bert, lambda t: t.update({QUERY: t[prefix + QUERY].clone()}))
    with pytest.raises(UserError, match="the same tensor twice"):
        BertModel.from_pretrained(tiny_bert)


def test_a_checkpoint_without_a_pooler(tiny_bert):
    change_weights(tiny_bert, lambda t: [t.pop(name) for name in list(t) if "pooler" in name])
    assert BertModel.from_pretrained(tiny_bert)(torch.tensor([[2, 3]]))[1] is None
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    assert set(model.load_report.new) >= {"encoder.pooler.weight", "head.weight"}
    mean = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2, pooling="mean")
    assert set(mean.load_report.new) == {"head.weight", "head.bias"}
    assert torch.isfinite(mean(torch.tensor([[2, 3]]))).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(QUERY), ["missing", QUERY]),
        (lambda t: t.update(extra=torch.ones(2)), ["'extra'", "not part of a BertModel"]),
        (lambda t: t.update({QUERY: torch.ones(3, 32)}), [QUERY, "(3, 32)", "(32, 32)"]),
        (lambda t: t.update({QUERY: torch.ones(32, 32).int()}), [QUERY, "int32"]),
        (lambda t: t.update({"bert." + QUERY: t[QUERY].clone()}), [QUERY, "twice"]),
        (
            lambda t: t.update({"encoder.layer.7.output.dense.bias": torch.ones(32)}),
            ["encoder.layer.7.output.dense.bias"],
        ),
    ],
    ids=["missing", "unexpected", "another shape", "integers", "twice", "layer too many"],
)
def test_wrong_tensors_are_errors_that_name_the_tensor(tiny_bert, change, words):
    change_weights(tiny_bert, change)
    with pytest.raises(UserError) as caught:
        BertModel.from_pretrained(tiny_bert)
    assert all(word in str(caught.value) for word in [*words, str(tiny_bert)])


def test_damaged_files(tiny_bert):
    path = tiny_bert / "model.safetensors"
    whole = path.read_bytes()
    damaged = [
        whole[: len(whole) // 2],  # cut off
        whole[:5],
        b"",
        (2**40).to_bytes(8, "little") + whole[8:],  # a header longer than the file
        whole[:8] + whole[8:].replace(b'"F32"', b'"F64"', 1),  # a type of another size
        b"PK\x03\x04" + whole,
    ]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(UserError, match="not a whole safetensors file"):
            BertModel.from_pretrained(tiny_bert)
    path.unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        BertModel.from_pretrained(tiny_bert)
    (tiny_bert / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="pickle"):
        BertModel.from_pretrained(tiny_bert)


def test_an_index_that_points_elsewhere_is_refused(tiny_bert):
    (tiny_bert / "model.safetensors").rename(tiny_bert.parent / "outside.safetensors")
    index = {"weight_map": {QUERY: "../outside.safetensors"}}
    (tiny_bert / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="outside"):
        BertModel.from_pretrained(tiny_bert)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "gpt2"}, ["gpt2"]),
        ({"hidden_size": 33}, ["33", "num_attention_heads"]),
        ({"hidden_size": "wide"}, ["hidden_size", "wide"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers", "1000000000"]),
        ({"num_hidden_layers": True}, ["num_hidden_layers", "True"]),
        ({"hidden_act": "mish"}, ["hidden_act", "mish"]),
        ({"hidden_dropout_prob": 1.5}, ["hidden_dropout_prob", "1.5"]),
        ({"position_embedding_type": "relative_key"}, ["position_embedding_type"]),
        ({"is_decoder": True}, ["is_decoder"]),
        ({"pad_token_id": 10**6}, ["pad_token_id"]),
        ({"num_attention_heads": 8, "hidden_size": 64}, ["word_embeddings", "(", "64"]),
    ],
)
def test_a_config_that_does_not_fit_is_an_error_that_names_the_field(tiny_bert, values, words):
    change_config(tiny_bert, **values)
    with pytest.raises(UserError) as caught:
        BertModel.from_pretrained(tiny_bert)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\xff\xfe"])
def test_a_config_that_is_not_json_is_an_error_that_names_the_file(tiny_bert, text):
    (tiny_bert / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json"):
        BertModel.from_pretrained(tiny_bert)


def test_heads_are_new_only_on_request(tiny_bert, tmp_path):
    with pytest.raises(UserError, match="num_labels"):
        BertForSequenceClassification.from_pretrained(tiny_bert)
    model = BertForSequenceClassification.from_pretrained(tiny_bert, labels=["no", "yes", "maybe"])
    assert model.load_report.new == ("head.weight", "head.bias")
    assert model.head.bias.abs().sum() == 0
    assert 0.01 < model.head.weight.std() < 0.03
    saved = tmp_path / "saved"
    model.save_pretrained(saved)

    again = BertForSequenceClassification.from_pretrained(saved)
    assert again.load_report.new == ()
    assert again.config.labels == ("no", "yes", "maybe")
    with pytest.raises(UserError, match=r"'classifier\.weight' has 3 labels"):
        BertForSequenceClassification.from_pretrained(saved, num_labels=2)
    with pytest.raises(UserError, match="no, yes, maybe"):
        BertForSequenceClassification.from_pretrained(saved, labels=["yes", "no", "maybe"])
    fresh = BertForSequenceClassification.from_pretrained(saved, num_labels=2, reset_head=True)
    assert fresh.config.labels == ("LABEL_0", "LABEL_1")
    assert "another task" in fresh.load_report.ignored["classifier.weight"]
    assert (
        "bare encoder" in BertModel.from_pretrained(saved).load_report.ignored["classifier.weight"]
    )

    # A head of another kind of task has the same name and may even have the same shape.
    change_config(saved, architectures=["BertForTokenClassification"])
    with pytest.raises(UserError, match="no head for BertForSequenceClassification"):
        BertForSequenceClassification.from_pretrained(saved)


def test_meaningless_arguments_are_programming_errors(tiny_bert):
    with pytest.raises(TypeError, match="has no labels"):
        BertModel.from_pretrained(tiny_bert, num_labels=2)
    with pytest.raises(TypeError, match="hidden_droput"):
        BertModel.from_pretrained(tiny_bert, hidden_droput=0.0)
    with pytest.raises(ValueError, match="3 labels are given"):
        BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2, labels="abc")


def test_a_config_keeps_unknown_keys():
    values = {"model_type": "bert", "made_by": "someone", "torch_dtype": "float16"}
    saved = BertConfig.from_dict(values).to_dict()
    assert saved["made_by"] == "someone"
    assert saved["dtype"] == "float32"
    assert "torch_dtype" not in saved


def test_too_many_tokens_are_refused(tiny_bert):
    with pytest.raises(ValueError, match="up to 64 tokens"):
        BertModel.from_pretrained(tiny_bert)(torch.zeros(1, 65, dtype=torch.long))
