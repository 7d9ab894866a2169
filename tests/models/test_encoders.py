"""Every family of encoders equals that of `transformers`, on tiny random models."""

from __future__ import annotations

import pytest
import torch
from support.encoders import CONFIGS, FAMILIES, transformers
from support.parity import (
    assert_close,
    assert_round_trip,
    assert_same_gradients,
    assert_same_hidden_states,
    random_batch,
)
from torch.utils.flop_counter import FlopCounterMode

from minift.errors import UserError

transformers()  # skips these tests where it is not installed


def parameters(configs) -> list:
    """Those with sizes drawn at random, which are many, are slow."""
    return [
        pytest.param(*pair, id=name, marks=[pytest.mark.slow] if "random" in name else [])
        for name, pair in configs.items()
    ]


each_config = pytest.mark.parametrize(("family", "changes"), parameters(CONFIGS))
# Question answering and masked language modelling have no labels to vary.
without_labels = {n: (f, c) for n, (f, c) in CONFIGS.items() if "num_labels" not in c}
each_config_without_labels = pytest.mark.parametrize(
    ("family", "changes"), parameters(without_labels)
)
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
each_attention = pytest.mark.parametrize("attention", ["sdpa", "eager"])
HEADS = ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
KINDS = ["Model", "ForMaskedLM", *HEADS]


def both(family, kind, folder, attention="sdpa", **changes):
    """The model of `transformers`, and ours, which has read its files."""
    theirs = family.reference(kind, folder / "theirs", **changes)
    settings = {"attn_implementation": attention}
    return theirs, family.ours(kind).from_pretrained(folder / "theirs", **settings)


@each_attention
@each_config
def test_the_encoder_equals_transformers(tmp_path, family, changes, attention):
    theirs, ours = both(family, "Model", tmp_path, attention, **changes)
    for seed in range(3):
        inputs = random_batch(ours.config, seed)
        assert_same_hidden_states(ours, theirs, *inputs)
        hidden, pooled = ours(*inputs)
        expected = theirs(*inputs)
        real = inputs[1].bool()
        assert_close("hidden", hidden[real], expected.last_hidden_state[real])
        if pooled is None:
            assert "pooler_output" not in expected
        else:
            assert_close("pooled", pooled, expected.pooler_output)
    ids = inputs[0]
    assert_close("no mask", ours(ids)[0], theirs(ids).last_hidden_state)


@each_attention
@each_config
def test_the_classifier_and_its_gradients_equal_transformers(tmp_path, family, changes, attention):
    theirs, ours = both(family, "ForSequenceClassification", tmp_path, attention, **changes)
    inputs = random_batch(ours.config, seed=5)
    labels = torch.tensor([0, 1, 1, 0])
    expected = theirs(*inputs, labels=labels)
    logits = ours(*inputs)
    assert_close("logits", logits, expected.logits)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert_close("loss", loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    assert_same_gradients(ours, theirs)

    assert_round_trip(ours, theirs, tmp_path / "ours")


@pytest.mark.slow
@each_attention
@each_config
def test_the_token_classifier_and_its_gradients_equal_transformers(
    tmp_path, family, changes, attention
):
    names = {"num_labels": 5, "id2label": dict(enumerate(["O", "B-X", "I-X", "B-Y", "I-Y"]))}
    changes = {**changes, **names}
    theirs, ours = both(family, "ForTokenClassification", tmp_path, attention, **changes)
    assert ours.config.labels == tuple(names["id2label"].values())
    inputs = random_batch(ours.config, seed=5)
    real = inputs[1].bool()
    labels = torch.randint(5, real.shape).masked_fill(~real, -100)
    expected = theirs(*inputs, labels=labels)
    logits = ours(*inputs)
    assert_close("logits", logits[real], expected.logits[real])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert_close("loss", loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    assert_same_gradients(ours, theirs)

    again = assert_round_trip(ours, theirs, tmp_path / "ours")
    assert again.config.id2label == names["id2label"]


@pytest.mark.slow
@each_attention
@each_config_without_labels
def test_question_answering_and_its_gradients_equal_transformers(
    tmp_path, family, changes, attention
):
    theirs, ours = both(family, "ForQuestionAnswering", tmp_path, attention, **changes)
    assert ours.load_report.new == ()
    ids, mask, *types = random_batch(ours.config, seed=5)
    first, last = torch.tensor([[0, 3, 1, 0], [0, 5, 2, 7]])
    expected = theirs(ids, mask, *types)
    real = mask.bool()
    pairs = list(
        zip(ours(ids, mask, *types), (expected.start_logits, expected.end_logits), strict=True)
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
    loss = theirs(ids, None, *types, start_positions=first, end_positions=last).loss
    sides = zip(ours(ids, None, *types), (first, last), strict=True)
    own = sum(torch.nn.functional.cross_entropy(logits, place) for logits, place in sides) / 2
    assert_close("loss", own, loss)

    assert_round_trip(ours, theirs, tmp_path / "ours")


@pytest.mark.slow
@each_config_without_labels
def test_the_masked_language_model_and_its_gradients_equal_transformers(tmp_path, family, changes):
    theirs, ours = both(family, "ForMaskedLM", tmp_path, **changes)
    assert ours.load_report.new == ()
    inputs = random_batch(ours.config, seed=5)
    ids, real = inputs[0], inputs[1].bool()
    assert_close("logits", ours(*inputs)[real], theirs(*inputs).logits[real])
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


@each_family
def test_a_masked_language_model_head_is_new_only_on_request(tmp_path, family):
    family.reference("Model", tmp_path)
    masked_lm = family.ours("ForMaskedLM")
    assert not masked_lm.has_head(tmp_path)
    with pytest.raises(UserError, match=r"is missing"):
        masked_lm.from_pretrained(tmp_path)
    ours = masked_lm.from_pretrained(tmp_path, reset_head=True)
    assert all(name.startswith("head.") for name in ours.load_report.new)
    assert len(ours.load_report.new) == 5
    family.reference("ForMaskedLM", tmp_path / "whole")
    whole = masked_lm.from_pretrained(tmp_path / "whole")
    assert whole.load_report.new == ()
    assert masked_lm.has_head(tmp_path / "whole")


@each_family
def test_every_item_of_a_batch_equals_the_item_alone(tmp_path, family):
    _, ours = both(family, "ForSequenceClassification", tmp_path)
    ids, _, *types = random_batch(ours.config, seed=2, batch=6)
    lengths = [1, 11, 4, 4, 7, 11]
    mask = (torch.arange(11) < torch.tensor(lengths)[:, None]).long()
    together = ours(ids, mask, *types)
    for i, length in enumerate(lengths):
        alone = ours(ids[i : i + 1, :length], None, *(t[i : i + 1, :length] for t in types))
        assert_close(f"item {i}", together[i], alone[0], 1e-6)


@each_family
def test_the_last_layer_computes_only_the_cls_rows_for_a_classifier(tmp_path, family):
    _, ours = both(family, "ForSequenceClassification", tmp_path)
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


@each_family
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_is_read_as_float32(tmp_path, dtype, family):
    theirs = family.reference("Model", tmp_path)
    theirs.to(dtype).save_pretrained(tmp_path)
    ours = family.ours("Model").from_pretrained(tmp_path)
    inputs = random_batch(ours.config, seed=0)
    assert_same_hidden_states(ours, theirs.float(), *inputs)


@each_family
@pytest.mark.parametrize("kind", KINDS)
def test_the_bare_encoder_is_read_from_a_checkpoint_with_any_head(tmp_path, family, kind):
    theirs = family.reference(kind, tmp_path)
    ours = family.ours("Model").from_pretrained(tmp_path)
    encoder = theirs if kind == "Model" else family.encoder_of(theirs)
    assert_same_hidden_states(ours, encoder, *random_batch(ours.config, seed=0))
    # And every head is made anew on it.
    for head in HEADS:
        model = family.ours(head).from_pretrained(tmp_path, num_labels=2, reset_head=True)
        assert set(dict(model.head_parameters())) <= set(model.load_report.new)
