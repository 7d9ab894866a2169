"""Text classification from record to score, step by step."""

from __future__ import annotations

import pytest
import torch

from minift.data.read import TextRecord
from minift.errors import UserError
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.text.windows import head_and_tail


def initial(tiny_bert, reviews, **changes):
    options = ClassificationOptions(
        model=str(tiny_bert),
        train_file=reviews["train"],
        dev_file=reviews["dev"],
        test_file=reviews["test"],
        **changes,
    )
    return ClassificationTask.from_options(options)


def record(text: str, label: str = "pos", pair: str | None = None) -> TextRecord:
    return TextRecord(id="1", text=text, label=label, text_pair=pair, where="here, line 1")


def tokens(task, feature) -> str:
    return " ".join(task.tokenizer.convert_ids_to_tokens(feature.input_ids))


def test_from_options_reads_the_data_and_fits_the_head(tiny_bert, reviews):
    task, model, splits = initial(tiny_bert, reviews)
    assert task.labels == model.config.labels == ("neg", "pos")
    assert {name: len(records) for name, records in splits.items()} == {
        "train": 50,
        "dev": 10,
        "test": 10,
    }
    assert model.load_report.new == ("head.weight", "head.bias")
    assert task.max_length == 64


def test_a_fine_tuned_checkpoint_keeps_its_head_for_the_same_labels(tiny_bert, reviews, tmp_path):
    task, model, _ = initial(tiny_bert, reviews)
    task.save(model, tmp_path / "saved")
    _, same, _ = initial(tmp_path / "saved", reviews)
    assert same.load_report.new == ()
    assert torch.equal(same.head.weight, model.head.weight)
    for path in reviews.values():
        path.write_text(path.read_text().replace("\tneg", "\tbad"))
    _, fresh, _ = initial(tmp_path / "saved", reviews)
    assert fresh.config.labels == ("bad", "pos")
    assert fresh.load_report.new == ("head.weight", "head.bias")


def test_features_of_single_texts_and_pairs(tiny_bert, reviews):
    task, _, _ = initial(tiny_bert, reviews)
    single, pair = task.featurize([record("good film", "neg"), record("good film", pair="not bad")])
    assert tokens(task, single) == "[CLS] good film [SEP]"
    assert (single.label, single.token_type_ids, single.truncated) == (0, [0] * 4, False)
    assert tokens(task, pair) == "[CLS] good film [SEP] not bad [SEP]"
    assert (pair.label, pair.token_type_ids) == (1, [0, 0, 0, 0, 1, 1, 1])


LONG = "a b c d e f g h i j"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("head", ["a b c d e f"]),
        ("head+tail", ["a b g h i j"]),
        ("windows", ["a b c d e f", "e f g h i j"]),
    ],
)
def test_long_texts_as_in_the_docstring(tiny_bert, reviews, how, expected):
    task, _, _ = initial(tiny_bert, reviews, truncation=how, max_length=8)
    features = task.featurize([record(LONG), record("a b")])
    assert [tokens(task, f) for f in features] == [
        *(f"[CLS] {part} [SEP]" for part in expected),
        "[CLS] a b [SEP]",
    ]
    assert [f.record for f in features] == [0] * len(expected) + [1]
    assert sum(f.weight for f in features if f.record == 0) == pytest.approx(1)
    assert [f.truncated for f in features] == [True] * len(expected) + [False]
    assert "50.0% of the texts have more than 8 tokens" in task.display.describe(
        [record(LONG), record("a b")], features
    )


@pytest.mark.parametrize("how", ["head", "head+tail", "windows"])
def test_no_feature_is_longer_than_the_model_and_windows_lose_nothing(tiny_bert, reviews, how):
    task, _, _ = initial(tiny_bert, reviews, truncation=how, max_length=9)
    texts = ["", *(" ".join("abcdefgh"[:n] * 4) for n in range(1, 9))]
    records = [record(a, pair=b) for a in texts for b in [None, *texts]]
    features = task.featurize(records)
    assert {f.record for f in features} == set(range(len(records)))
    for feature in features:
        assert feature.length == len(feature.token_type_ids) <= 9
    if how == "windows":
        for i, r in enumerate(records):
            if r.text_pair is None:
                seen = {t for f in features if f.record == i for t in tokens(task, f).split()}
                assert set(r.text.split()) <= seen


def test_head_and_tail_shares_of_the_paper():
    # Sun et al. 2019: of 510 tokens the first 128 and the last 382.
    kept = head_and_tail(list(range(1000)), 510)
    assert kept == [*range(128), *range(1000 - 382, 1000)]


def test_loss_is_a_sum_and_its_count(tiny_bert, reviews):
    task, model, splits = initial(tiny_bert, reviews)
    features = task.featurize(splits["train"][:8])
    total, count = task.loss(model, task.collate(features))
    parts = [task.loss(model, task.collate([feature])) for feature in features]
    assert count == 8
    torch.testing.assert_close(total, sum(part for part, _ in parts))
    batch = task.collate(features)
    logits = model(batch.input_ids, batch.attention_mask, batch.token_type_ids)
    expected = torch.nn.functional.cross_entropy(logits, batch.labels)
    torch.testing.assert_close(total / count, expected)


def test_class_weights_make_labels_weigh_the_same(tiny_bert, reviews):
    lines = reviews["train"].read_text().splitlines(keepends=True)
    reviews["train"].write_text("".join(lines[:33]))
    task, model, splits = initial(tiny_bert, reviews, class_weights="balanced")
    features = task.featurize(splits["train"])
    assert task.class_weight[0] != task.class_weight[1]
    weight = {0: 0.0, 1: 0.0}
    for feature in features:
        weight[feature.label] += task.loss(model, task.collate([feature]))[1].item()
    assert weight[0] == pytest.approx(weight[1]) == pytest.approx(len(features) / 2)


def test_windows_of_a_record_weigh_as_much_as_another_record(tiny_bert, reviews):
    task, model, _ = initial(tiny_bert, reviews, truncation="windows", max_length=8)
    features = task.featurize([record(LONG), record("a b")])
    assert len(features) == 3
    assert task.loss(model, task.collate(features))[1].item() == pytest.approx(2)


def test_predictions_average_the_logits_of_windows_and_keep_the_order(tiny_bert, reviews):
    task, model, _ = initial(tiny_bert, reviews, truncation="windows", max_length=8)
    records = [record(LONG), record("a b"), record("not good"), record(LONG + " a a a a")]
    features = task.featurize(records)
    found = task.predict(model, features, batch_size=2)
    assert len(found) == 4
    for i in range(4):
        parts = [f for f in features if f.record == i]
        batch = task.collate(parts)
        expected = (
            model(batch.input_ids, batch.attention_mask, batch.token_type_ids).mean(0).softmax(-1)
        )
        torch.testing.assert_close(torch.tensor(found[i].probabilities), expected)
        assert found[i].label == task.labels[int(expected.argmax())]


def test_frozen_features_give_the_same_loss_and_predictions(tiny_bert, reviews):
    for pooling in ("pooler", "cls", "mean"):
        task, model, splits = initial(tiny_bert, reviews, pooling=pooling)
        features = task.featurize(splits["dev"])
        frozen = task.precompute_encoder_outputs(model, features, batch_size=3)
        with torch.no_grad():
            whole = task.loss(model, task.collate(features))
            head = task.loss(model, task.collate(frozen))
        torch.testing.assert_close(head, whole)
        for a, b in zip(
            task.predict(model, frozen, 4), task.predict(model, features, 4), strict=True
        ):
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-6)


def test_unknown_labels_and_single_labels_are_refused(tiny_bert, reviews):
    reviews["dev"].write_text("good film\tmeh\n")
    with pytest.raises(UserError, match=r"dev\.tsv, line 1: the label 'meh'"):
        initial(tiny_bert, reviews)
    reviews["train"].write_text("good film\tpos\n")
    with pytest.raises(UserError, match=r"train\.tsv: every label is 'pos'"):
        initial(tiny_bert, reviews)


def test_saved_tasks_predict_as_before(tiny_bert, reviews, tmp_path):
    task, model, splits = initial(
        tiny_bert, reviews, truncation="head+tail", max_length=7, pooling="mean"
    )
    model.eval()
    expected = task.predict(model, task.featurize(splits["test"]), 4)
    task.save(model, tmp_path / "saved")
    again, loaded = ClassificationTask.from_pretrained(tmp_path / "saved")
    assert (again.max_length, again.options.truncation, again.labels) == (
        7,
        "head+tail",
        task.labels,
    )
    assert loaded.config.pooling == "mean"
    assert again.predict(loaded, again.featurize(splits["test"]), 4) == expected
