"""Warnings about usable but doubtful data, each with its count."""

from __future__ import annotations

import doctest
import random

import pytest
from support.questions import question
from support.questions import write as write_questions
from support.summaries import write

from minift.data.squad import Answer, QuestionRecord
from minift.tasks import data_checks as module
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.data_checks import (
    contradictions,
    missing_labels,
    overlaps,
    rare_labels,
    similar_labels,
    unknown_tokens,
)
from minift.tasks.ner import NerOptions, NerTask
from minift.tasks.qa import QaOptions, QaTask
from minift.tasks.summarization import SummarizationOptions, SummarizationTask
from minift.training.options import TrainOptions
from minift.training.run import run


def data_checks(task_class, options):
    task, _, splits = task_class.from_options(options)
    features = {s: task.featurize(records, s == "train") for s, records in splits.items()}
    return task.data_checks(splits, features)


def test_texts(tiny_bert, tmp_path):
    train, dev, other = (tmp_path / name for name in ("train.tsv", "dev.tsv", "other.tsv"))
    train.write_text("it was good\ta\nit was bad\tb\nso it was\tb\nit was bad\tb\n")
    dev.write_text("it was bad\ta\nit was good\ta\nthe film\ta\n")
    other.write_text("the film was so good\ta\nthe film was it\tb\n")
    options = ClassificationOptions(model=str(tiny_bert), train_file=train, dev_file=dev)
    assert data_checks(ClassificationTask, options) == [
        "1 of 4 training records have the same input as an earlier one",
        f"2 of 3 dev records also occur in the training data ({dev}, line 1: the same input as "
        f"{train}, line 2), so the dev score overstates performance on new data",
        "1 of 3 dev records contradict the training data: the same input has another label there "
        f"({dev}, line 1 and {train}, line 2)",
        "there is only one training example of 'a'",
        "every dev record has the label 'a', so f1 and matthews_correlation mean nothing there",
    ]
    options = ClassificationOptions(
        model=str(tiny_bert), train_file=other, dev_file=train, max_length=4
    )
    found = data_checks(ClassificationTask, options)
    assert found == [
        "there is only one training example of 'a', 'b'",
        "all training texts have more than 4 tokens (--max-length) and are truncated",
    ]


def test_pairs_differ_if_either_text_differs(tiny_bert, tmp_path):
    train, dev = tmp_path / "train.tsv", tmp_path / "dev.tsv"
    train.write_text("it was\tgood\ta\nit was\tbad\tb\nit is\tbad\ta\nit is\tgood\tb\n")
    dev.write_text("the film\tgood\ta\nit was\tso\tb\n")
    options = ClassificationOptions(model=str(tiny_bert), train_file=train, dev_file=dev)
    assert data_checks(ClassificationTask, options) == []


def test_training_prints_the_warnings(tiny_bert, tmp_path, capsys):
    train = tmp_path / "train.tsv"
    train.write_text("it was good\ta\nit was bad\tb\nit was bad\tb\n")
    options = ClassificationOptions(model=str(tiny_bert), train_file=train)
    run(ClassificationTask, options, TrainOptions(output_dir=tmp_path / "run", epochs=1))
    out = capsys.readouterr().out
    assert "warning: 1 of 3 training records have the same input as an earlier one" in out
    assert "warning: there is only one training example of 'a'" in out


def test_words_and_questions(tiny_bert, tmp_path):
    train, dev = tmp_path / "train.conll", tmp_path / "dev.conll"
    train.write_text("bo B-PER\nwas O\n\nxy B-LOC\nwas O\n\nxy B-LOC\n")
    dev.write_text("xy O\nwas O\n")
    found = data_checks(NerTask, NerOptions(model=str(tiny_bert), train_file=train, dev_file=dev))
    assert [line.split(" (")[0] for line in found] == [
        "1 of 1 dev records also occur in the training data",
        "1 of 1 dev records contradict the training data: the same input has another label there",
        "there is only one training example of 'PER'",
    ]

    records = [question(i, random.Random(7 * i)) for i in range(4)]
    train = write_questions(tmp_path / "train.json", records)
    dev = write_questions(tmp_path / "dev.json", [records[2], question(9, random.Random(9))])
    found = data_checks(QaTask, QaOptions(model=str(tiny_bert), train_file=train, dev_file=dev))
    assert [line.split(" (")[0] for line in found] == [
        "1 of 2 dev records also occur in the training data"
    ]


def test_many_rare_labels_are_not_all_listed():
    assert rare_labels("aabbc") == ["there is only one training example of 'c'"]
    assert rare_labels("aabb") == []
    assert rare_labels("abcdefg")[0].endswith("'a', 'b', 'c', 'd', 'e', ...")


def test_good_data_has_no_warnings():
    assert overlaps(str, {"train": [1, 2], "dev": [3], "test": [4]}) == []


def test_special_tokens_that_records_spell(tiny_bert, tiny_t5, tmp_path):
    lines = tmp_path / "train.tsv"
    lines.write_text("it was [SEP] good\ta\nit was good\tb\nso [sep]\ta\n[MASK]\tb\n")
    options = ClassificationOptions(model=str(tiny_bert), train_file=lines, dev_file=lines)
    found = [line for line in data_checks(ClassificationTask, options) if "spell a" in line]
    assert found == [
        f"2 of 4 {split} records spell a special token of the model ({lines}, line 1: [SEP]); it "
        "is read as text"
        for split in ("train", "dev")
    ]
    words = tmp_path / "train.conll"
    words.write_text("good O\n[CLS] B-X\n\nbad B-X\n")
    options = NerOptions(model=str(tiny_bert), train_file=words, dev_file=words)
    assert "1 of 2 train records spell" in "".join(data_checks(NerTask, options))
    asked = QuestionRecord("a", "is it [CLS]", "the film", (Answer("film", 4),))
    questions = write_questions(tmp_path / "train.json", [asked])
    options = QaOptions(model=str(tiny_bert), train_file=questions, dev_file=questions)
    assert "1 of 1 train records spell" in "".join(data_checks(QaTask, options))
    summaries = tmp_path / "train.jsonl"
    rows = [("rain fell.", "<s>90</s>"), ("rain fell.", "fir"), ("<pad> or <s>", "oak")]
    write(summaries, [{"document": d, "summary": s} for d, s in rows])
    options = SummarizationOptions(model=str(tiny_t5), train_file=summaries, dev_file=summaries)
    assert "2 of 3 train records spell a special token of the model" in "".join(
        data_checks(SummarizationTask, options)
    )


def test_docstring_examples_run():
    assert doctest.testmod(module).failed == 0


def test_contradictions_are_counted_in_training_and_between_the_splits(tiny_bert, tmp_path):
    train, dev = tmp_path / "train.tsv", tmp_path / "dev.tsv"
    train.write_text(
        "it was good\ta\nit was bad\tb\nit was good\tb\nit was good\ta\nfine\ta\nso fine\tb\n"
    )
    dev.write_text("it was good\ta\nfine\tb\nso fine\tb\nnot here\ta\n")
    options = ClassificationOptions(model=str(tiny_bert), train_file=train, dev_file=dev)
    assert data_checks(ClassificationTask, options)[2:] == [
        "3 of 6 training records contradict each other: the same input has different labels "
        f"({train}, line 1 and {train}, line 3)",
        "1 of 4 dev records contradict the training data: the same input has another label there "
        f"({dev}, line 2 and {train}, line 5)",
    ]
    train, dev = tmp_path / "train.conll", tmp_path / "dev.conll"
    train.write_text("bo B-PER\nwas O\n\nbo B-LOC\nwas O\n\nbo B-LOC\n\nxy B-PER\n")
    dev.write_text("bo O\nwas O\n\nbo B-LOC\n")
    found = data_checks(NerTask, NerOptions(model=str(tiny_bert), train_file=train, dev_file=dev))
    assert [line.split(":")[0] for line in found[2:]] == [
        "2 of 4 training records contradict each other",
        "1 of 2 dev records contradict the training data",
    ]
    pair = [(0, "x"), (1, "x")]
    assert contradictions(lambda r: r[0], lambda r: r[1], {"train": pair, "dev": pair}) == []


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["Positive", "positive", "positive"], "'Positive' (1), 'positive' (2)"),
        (["cafe\u0301", "caf\u00e9"], r"'cafe\u0301' (1), 'caf\xe9' (1)"),
        (["very good", "very  good", "Very\u00a0good"], r"'Very\xa0good' (1), 'very  good' (1), '"),
        (["01", "1", "1.0", "2"], "'01' (1), '1' (1), '1.0' (1)"),
        (["1", "\uff11"], "'1' (1), '\uff11' (1)"),
    ],
)
def test_labels_that_differ_in_spelling_only(labels, names):
    (warning,) = similar_labels(labels)
    assert warning.startswith(names)
    assert "are different labels that differ in spelling only" in warning


def test_different_labels_have_no_warning():
    assert (
        similar_labels(["neg", "pos", "neutral", "no", "1", "2", "nan", "inf", "日本", "中国"])
        == []
    )


def test_entity_types_that_differ_in_case_only(tiny_bert, tmp_path):
    train = tmp_path / "train.conll"
    train.write_text(
        "bo B-PER\nxy I-PER\n\nbo B-per\n\nxy B-per\n\nso B-PER\n\nit B-LOC\nis B-LOC\n"
    )
    found = data_checks(NerTask, NerOptions(model=str(tiny_bert), train_file=train))
    assert found[-1].startswith("'PER' (2), 'per' (2) are different labels")


def test_labels_that_stand_for_missing_ones():
    assert missing_labels(["nan", "a", "nan", "?", "none", "NaN"]) == [
        "2 training records have the label 'nan'; if that means that their label is missing, "
        "remove them",
        "1 training records have the label '?'; if that means that their label is missing, "
        "remove them",
        "1 training records have the label 'NaN'; if that means that their label is missing, "
        "remove them",
    ]


def test_unknown_tokens_are_counted_without_special_ones(tiny_bert, tmp_path):
    train, dev = tmp_path / "train.tsv", tmp_path / "dev.tsv"
    train.write_text("👎 😡\tno\n👍 👍 🎉\tyes\n👎 the film\tno\nso\tyes\n")  # 6 of 9
    dev.write_text("it was good and fine and so it is and was and is\tyes\n" * 3 + "it 👎\tno\n")
    options = ClassificationOptions(model=str(tiny_bert), train_file=train, dev_file=dev)
    found = [line for line in data_checks(ClassificationTask, options) if "unknown" in line]
    assert [line.split(":")[0] for line in found] == [
        "66.7% of the tokens of the training data are unknown"
    ]
    train.with_suffix(".conll").write_text("👎 B-PER\n😡 O\n\n🎉 B-LOC\n")
    options = NerOptions(model=str(tiny_bert), train_file=train.with_suffix(".conll"))
    assert data_checks(NerTask, options)[0].startswith("100.0% of the tokens of the training data")
    task, _, _ = NerTask.from_options(options)
    assert unknown_tokens({"train": []}, task.tokenizer) == []
