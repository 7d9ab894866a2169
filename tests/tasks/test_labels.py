"""Labels of classification: their order, unsuitable ones, and whose F1 is `f1`."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest
from support.running import ROOT, read_metrics

from minift.data.read import TextRecord
from minift.errors import UserError
from minift.metrics import f1
from minift.tasks import labels as module
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.labels import (
    check_labels,
    doubtful_labels,
    labels_in,
    positive_label,
    sort_labels,
)
from minift.training.options import TrainOptions
from minift.training.run import run


def records(rows, split="train") -> list[TextRecord]:
    """rows: (text, label) or (text, pair, label)."""
    return [
        TextRecord(str(i), row[0], row[-1], row[1] if len(row) == 3 else None, f"{split} {i}")
        for i, row in enumerate(rows)
    ]


def test_docstring_examples_run():
    assert doctest.testmod(module).failed == 0


def test_labels_have_a_stable_order():
    assert sort_labels({"2", "10", "-1"}) == ("-1", "2", "10")
    assert sort_labels({"b", "a", "10"}) == ("10", "a", "b")
    assert sort_labels(["1", "01", "001"]) == sort_labels(["01", "001", "1"]) == ("001", "01", "1")


@pytest.mark.slow
def test_the_order_is_the_same_in_every_process():
    """The order of a set of strings depends on the hash seed; that of equal numbers must not."""
    code = "from minift.tasks.labels import *; print(sort_labels({'1', '01', '001', '+1', '1 '}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(3)
    }
    assert found == {"('+1', '001', '01', '1', '1 ')\n"}


def test_columns_that_look_swapped_are_refused():
    first = records([("pos" if i % 2 else "neg", f"a film number {i}") for i in range(12)])
    with pytest.raises(UserError, match=r"12 different labels, .* but only 2 different"):
        labels_in({"train": first}, "x.tsv")
    labels_in({"train": first[:4]}, "x.tsv")  # too few to tell
    pairs = records([("yes", f"a {i}", f"b {i}") for i in range(12)])
    with pytest.raises(UserError, match="only 1 different texts, so the columns look swapped"):
        labels_in({"train": pairs}, "x.tsv")
    # Many labels alone may be right: a warning.
    many = records([(f"a film number {i}", f"{i}.5") for i in range(12)])
    assert len(labels_in({"train": many}, "x.tsv")) == 12
    assert doubtful_labels([record.label for record in many])[-1] == (
        "12 training records have 12 different labels; if the labels are in another column, "
        "choose it with --label-column"
    )
    assert doubtful_labels(["a", "b"] * 6) == []


def test_single_texts_among_pairs_are_refused():
    pairs = records([("a", "b", "x"), ("c", "d", "y")])
    single = records([("a", "x")], "dev")
    message = "dev 0: the record is a single text, but train 0 is a pair of texts; give either"
    with pytest.raises(UserError, match=message):
        labels_in({"train": pairs, "dev": single}, "x.tsv")
    with pytest.raises(UserError, match="train 0: the record is a pair of texts, but dev 0 is"):
        labels_in({"train": single * 2, "test": pairs}, "x.tsv")
    assert labels_in({"train": pairs, "dev": pairs[1:]}, "x.tsv") == ("x", "y")


def test_an_unknown_label_that_is_only_written_otherwise_gets_a_hint():
    with pytest.raises(UserError, match=r"dev 0: the label 'Pos ' does not .*; write 'pos'"):
        check_labels(records([("a", "Pos ")], "dev"), ("neg", "pos"))
    with pytest.raises(UserError, match=r"'meh' .* \(neg, pos\); correct it or add examples"):
        check_labels(records([("a", "meh")], "dev"), ("neg", "pos"))


def test_f1_names_its_label(tiny_bert, reviews, tmp_path, capsys):
    assert positive_label(("hate", "normal"), "hate") == "hate"
    for given, labels in (("spam", ("hate", "normal")), ("a", ("a", "b", "c"))):
        with pytest.raises(UserError, match=f"--positive-label is '{given}'; it must be one of"):
            positive_label(labels, given)
    for given, expected in ((None, "pos"), ("neg", "neg")):
        options = ClassificationOptions(
            model=str(tiny_bert),
            train_file=reviews["train"],
            dev_file=reviews["dev"],
            positive_label=given,
        )
        folder = tmp_path / f"run-{expected}"
        run(ClassificationTask, options, TrainOptions(output_dir=folder, epochs=1))
        out = capsys.readouterr().out
        assert out.count(f"that of the label '{expected}' (--positive-label)") == 2
        score = read_metrics(folder)["dev"]
        assert score["positive_label"] == expected
        task, model = ClassificationTask.from_pretrained(folder)
        dev = ClassificationTask.read_splits(options)["dev"]
        predicted = [p.label for p in task.predict(model, task.featurize(dev), 8)]
        gold = [record.label for record in dev]
        assert score["f1"] == f1(predicted, gold, positive=expected)
        assert task.score(task.predict(model, task.featurize(dev), 8), dev)["f1"] == score["f1"]


def test_f1_of_three_labels_is_the_mean(tiny_bert, reviews, tmp_path):
    reviews["train"].write_text(reviews["train"].read_text() + "it is so\tneutral\n" * 3)
    options = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"])
    task, model, splits = ClassificationTask.from_options(options)
    score = task.score(task.predict(model, task.featurize(splits["train"]), 8), splits["train"])
    assert score["positive_label"] is None
    assert score["f1"] == score["f1_macro"]
    with pytest.raises(UserError, match="--positive-label is 'pos'; it must be one of exactly two"):
        ClassificationTask.from_options(
            ClassificationOptions(
                model=str(tiny_bert), train_file=reviews["train"], positive_label="pos"
            )
        )
