"""BERT equals that of `transformers`, on tiny random models and on a real checkpoint."""

from __future__ import annotations

import pytest
import torch
from support.parity import (
    assert_close,
    assert_round_trip,
    assert_same_gradients,
    assert_same_hidden_states,
    random_batch,
)
from torch.utils.flop_counter import FlopCounterMode

from minift import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from minift.errors import UserError

transformers = pytest.importorskip("transformers", reason="compares with transformers, not here")

TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,  # far from zero, so that differences show
}
CONFIGS = {
    "plain": {},
    "one head": {"num_attention_heads": 1},
    "narrow heads": {"hidden_size": 24, "num_attention_heads": 8},
    "deep": {"num_hidden_layers": 7},
    "tanh gelu": {"hidden_act": "gelu_new"},
    "relu": {"hidden_act": "relu"},
    "silu": {"hidden_act": "silu"},
    "one token type": {"type_vocab_size": 1},
    "large epsilon": {"layer_norm_eps": 1e-2},
    "five labels": {"num_labels": 5},
    "own head dropout": {"classifier_dropout": 0.4},
    "no pad token": {"pad_token_id": None},
}


def reference(model_class, folder, **changes):
    torch.manual_seed(1)
    model = model_class(transformers.BertConfig(**{**TINY, **changes})).eval()
    # transformers initialises biases with 0 and norms with 1, which would hide a mix-up.
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float("Norm.weight" in name), std=0.2)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_encoder_equals_transformers(tmp_path, changes, attention):
    theirs = reference(transformers.BertModel, tmp_path, **changes)
    ours = BertModel.from_pretrained(tmp_path, attn_implementation=attention)
    for seed in range(3):
        ids, mask, types = random_batch(ours.config, seed)
        assert_same_hidden_states(ours, theirs, ids, mask, types)
        hidden, pooled = ours(ids, mask, types)
        expected = theirs(ids, mask, types)
        real = mask.bool()
        assert_close("hidden", hidden[real], expected.last_hidden_state[real])
        assert_close("pooled", pooled, expected.pooler_output)
    assert_close("no mask", ours(ids)[0], theirs(ids).last_hidden_state)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_classifier_and_its_gradients_equal_transformers(tmp_path, changes, attention):
    theirs = reference(transformers.BertForSequenceClassification, tmp_path / "theirs", **changes)
    ours = BertForSequenceClassification.from_pretrained(
        tmp_path / "theirs", attn_implementation=attention
    )
    ids, mask, types = random_batch(ours.config, seed=5)
    labels = torch.tensor([0, 1, 1, 0])
    expected = theirs(ids, mask, types, labels=labels)
    logits = ours(ids, mask, types)
    assert_close("logits", logits, expected.logits)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    expected.loss.backward()
    assert_same_gradients(ours, theirs)

    assert_round_trip(ours, theirs, tmp_path / "ours")


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_token_classifier_and_its_gradients_equal_transformers(tmp_path, changes, attention):
    names = {"num_labels": 5, "id2label": dict(enumerate(["O", "B-X", "I-X", "B-Y", "I-Y"]))}
    model_class = transformers.BertForTokenClassification
    theirs = reference(model_class, tmp_path / "theirs", **{**changes, **names})
    ours = BertForTokenClassification.from_pretrained(
        tmp_path / "theirs", attn_implementation=attention
    )
    assert ours.config.labels == tuple(names["id2label"].values())
    ids, mask, types = random_batch(ours.config, seed=5)
    labels = torch.randint(5, ids.shape).masked_fill(mask == 0, -100)
    expected = theirs(ids, mask, types, labels=labels)
    logits = ours(ids, mask, types)
    assert_close("logits", logits[mask.bool()], expected.logits[mask.bool()])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    expected.loss.backward()
    assert_same_gradients(ours, theirs)

    again = assert_round_trip(ours, theirs, tmp_path / "ours")
    assert again.config.id2label == names["id2label"]


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changes", [c for c in CONFIGS.values() if "num_labels" not in c])
def test_question_answering_and_its_gradients_equal_transformers(tmp_path, changes, attention):
    model_class = transformers.BertForQuestionAnswering
    theirs = reference(model_class, tmp_path / "theirs", **changes)
    ours = BertForQuestionAnswering.from_pretrained(
        tmp_path / "theirs", attn_implementation=attention
    )
    assert ours.load_report.new == ()
    ids, mask, types = random_batch(ours.config, seed=5)
    first, last = torch.tensor([[0, 3, 1, 0], [0, 5, 2, 7]])
    expected = theirs(ids, mask, types)
    real = mask.bool()
    pairs = list(
        zip(ours(ids, mask, types), (expected.start_logits, expected.end_logits), strict=True)
    )
    losses = [[], []]
    for name, (found, wanted), place in zip(("start", "end"), pairs, (first, last), strict=True):
        assert_close(f"{name} logits", found[real], wanted[real])
        for side, logits in enumerate((found, wanted)):
            losses[side].append(
                torch.nn.functional.cross_entropy(logits.masked_fill(~real, -1e9), place)
            )
    for part in losses:
        (sum(part) / 2).backward()
    assert_same_gradients(ours, theirs)
    # Without padding, the loss is that of transformers.
    loss = theirs(ids, None, types, start_positions=first, end_positions=last).loss
    sides = zip(ours(ids, None, types), (first, last), strict=True)
    own = sum(torch.nn.functional.cross_entropy(logits, place) for logits, place in sides) / 2
    assert_close("loss", own, loss)

    assert_round_trip(ours, theirs, tmp_path / "ours")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [c for c in CONFIGS.values() if "num_labels" not in c])
def test_masked_language_model_and_its_gradients_equal_transformers(tmp_path, changes):
    model_class = transformers.BertForMaskedLM
    theirs = reference(model_class, tmp_path / "theirs", **changes)
    ours = BertForMaskedLM.from_pretrained(tmp_path / "theirs")
    assert ours.load_report.new == ()
    ids, mask, types = random_batch(ours.config, seed=5)
    real = mask.bool()
    assert_close("logits", ours(ids, mask, types)[real], theirs(ids, mask, types).logits[real])
    places = torch.rand(ids.shape) < 0.3
    truth = torch.randint(ours.config.vocab_size, ids.shape)
    total, count = ours.masked_loss(ids, places, truth[places])
    loss = theirs(ids, labels=truth.masked_fill(~places, -100)).loss
    assert count == places.sum()
    assert_close("loss", total / count, loss)
    (total / count).backward()
    loss.backward()
    assert_same_gradients(ours, theirs)

    assert_round_trip(ours, theirs, tmp_path / "ours")


def test_a_masked_language_model_head_is_new_only_on_request(tmp_path):
    reference(transformers.BertModel, tmp_path)
    assert not BertForMaskedLM.has_head(tmp_path)
    with pytest.raises(UserError, match=r"cls\.predictions\..* is missing"):
        BertForMaskedLM.from_pretrained(tmp_path)
    ours = BertForMaskedLM.from_pretrained(tmp_path, reset_head=True)
    assert all(name.startswith("head.") for name in ours.load_report.new)
    assert len(ours.load_report.new) == 5
    reference(transformers.BertForPreTraining, tmp_path / "whole")
    whole = BertForMaskedLM.from_pretrained(tmp_path / "whole")
    assert whole.load_report.new == ()
    assert BertForMaskedLM.has_head(tmp_path / "whole")


def test_every_item_of_a_batch_equals_the_item_alone(tmp_path):
    reference(transformers.BertForSequenceClassification, tmp_path)
    ours = BertForSequenceClassification.from_pretrained(tmp_path)
    ids, _, types = random_batch(ours.config, seed=2, batch=6)
    lengths = [1, 11, 4, 4, 7, 11]
    mask = (torch.arange(11) < torch.tensor(lengths)[:, None]).long()
    together = ours(ids, mask, types)
    for i, length in enumerate(lengths):
        alone = ours(ids[i : i + 1, :length], None, types[i : i + 1, :length])
        assert_close(f"item {i}", together[i], alone[0], 1e-6)


def test_the_last_layer_computes_only_the_cls_rows_for_a_classifier(tmp_path):
    reference(transformers.BertForSequenceClassification, tmp_path)
    ours = BertForSequenceClassification.from_pretrained(tmp_path)
    inputs = random_batch(ours.config, seed=2)
    operations = {}
    for name, compute in {"all": ours.encoder, "first": ours.features}.items():
        with FlopCounterMode(display=False) as counter:
            compute(*inputs)
        operations[name] = counter.get_total_flops()
    others = int(inputs[1].sum()) - len(inputs[1])  # tokens that are not the first
    hidden, inner = ours.config.hidden_size, ours.config.intermediate_size
    saved = 2 * others * (hidden * hidden + 2 * hidden * inner)  # output, up and down of a layer
    assert operations["all"] - operations["first"] >= saved > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_is_read_as_float32(tmp_path, dtype):
    theirs = reference(transformers.BertModel, tmp_path)
    theirs.to(dtype).save_pretrained(tmp_path)
    ours = BertModel.from_pretrained(tmp_path)
    ids, mask, types = random_batch(ours.config, seed=0)
    assert_same_hidden_states(ours, theirs.float(), ids, mask, types)


@pytest.mark.parametrize(
    "name", ["BertForPreTraining", "BertForMaskedLM", "BertForNextSentencePrediction", "BertModel"]
)
def test_pre_training_heads_are_ignored_by_name(tmp_path, name):
    theirs = reference(getattr(transformers, name), tmp_path)
    ours = BertModel.from_pretrained(tmp_path)
    ids, mask, types = random_batch(ours.config, seed=0)
    encoder = theirs if name == "BertModel" else theirs.bert
    assert_same_hidden_states(ours, encoder, ids, mask, types)
    assert (ours.pooler is None) == (name == "BertForMaskedLM")
    classifier = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    new_pooler = name == "BertForMaskedLM"
    assert ("encoder.pooler.weight" in classifier.load_report.new) == new_pooler


def test_shards_with_an_index(tmp_path):
    theirs = reference(transformers.BertModel, tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20kB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    ours = BertModel.from_pretrained(tmp_path / "shards")
    ids, mask, types = random_batch(ours.config, seed=0)
    assert_same_hidden_states(ours, theirs, ids, mask, types)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_real_checkpoint(minilm, attention):
    theirs = transformers.BertModel.from_pretrained(minilm).eval()
    ours = BertModel.from_pretrained(minilm, attn_implementation=attention)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = ["A short one.", "It was not bad at all, and that is the surprise of the year.", "No!"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert_same_hidden_states(ours, theirs, ids, mask, torch.zeros_like(ids))
    pooled, expected = ours(ids, mask)[1], theirs(ids, mask).pooler_output
    assert_close("pooled", pooled, expected)
    pooled.square().sum().backward()
    expected.square().sum().backward()
    assert_same_gradients(ours, theirs)
