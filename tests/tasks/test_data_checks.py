"""Data that can be used and yet may be wrong: people are told, each time with the count."""

from __future__ import annotations

import random

from support.questions import question
from support.questions import write as write_questions

from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.data_checks import overlaps, rare
from minift.tasks.ner import NerOptions, NerTask
from minift.tasks.qa import QaOptions, QaTask
from minift.training.options import TrainOptions
from minift.training.run import run


def doubts(task_class, options):
    task, _, splits = task_class.start(options)
    features = {s: task.featurize(records, s == "train") for s, records in splits.items()}
    return task.doubts(splits, features)


def test_texts(tiny_bert, tmp_path):
    train, dev, other = (tmp_path / name for name in ("train.tsv", "dev.tsv", "other.tsv"))
    train.write_text("it was good\ta\nit was bad\tb\nso it was\tb\nit was bad\tb\n")
    dev.write_text("it was bad\ta\nit was good\ta\nthe film\ta\n")
    other.write_text("the film was so good\ta\nthe film was it\tb\n")
    options = ClassificationOptions(model=str(tiny_bert), train_file=train, dev_file=dev)
    assert doubts(ClassificationTask, options) == [
        "1 of 4 training records ask what an earlier one asks",
        f"2 of 3 dev records are also trained on ({dev}, line 1: as {train}, line 2), so their "
        "score says less of new ones",
        "there is one training example only of 'a'",
        "every dev record is 'a': f1 and matthews_correlation say nothing there",
    ]
    options = ClassificationOptions(
        model=str(tiny_bert), train_file=other, dev_file=train, max_length=4
    )
    found = doubts(ClassificationTask, options)
    assert found == [
        "there is one training example only of 'a', 'b'",
        "all training texts have more than 4 tokens (--max-length), and are cut",
    ]


def test_a_pair_is_another_one_if_either_text_is(tiny_bert, tmp_path):
    train, dev = tmp_path / "train.tsv", tmp_path / "dev.tsv"
    train.write_text("it was\tgood\ta\nit was\tbad\tb\nit is\tbad\ta\nit is\tgood\tb\n")
    dev.write_text("the film\tgood\ta\nit was\tso\tb\n")
    options = ClassificationOptions(model=str(tiny_bert), train_file=train, dev_file=dev)
    assert doubts(ClassificationTask, options) == []


def test_the_loop_says_it(tiny_bert, tmp_path, capsys):
    train = tmp_path / "train.tsv"
    train.write_text("it was good\ta\nit was bad\tb\nit was bad\tb\n")
    options = ClassificationOptions(model=str(tiny_bert), train_file=train)
    run(ClassificationTask, options, TrainOptions(output_dir=tmp_path / "run", epochs=1))
    out = capsys.readouterr().out
    assert "warning: 1 of 3 training records ask what an earlier one asks" in out
    assert "warning: there is one training example only of 'a'" in out


def test_words_and_questions(tiny_bert, tmp_path):
    train, dev = tmp_path / "train.conll", tmp_path / "dev.conll"
    train.write_text("bo B-PER\nwas O\n\nxy B-LOC\nwas O\n\nxy B-LOC\n")
    dev.write_text("xy O\nwas O\n")
    found = doubts(NerTask, NerOptions(model=str(tiny_bert), train_file=train, dev_file=dev))
    assert [line.split(" (")[0] for line in found] == [
        "1 of 1 dev records are also trained on",
        "there is one training example only of 'PER'",
    ]

    records = [question(i, random.Random(7 * i)) for i in range(4)]
    train = write_questions(tmp_path / "train.json", records)
    dev = write_questions(tmp_path / "dev.json", [records[2], question(9, random.Random(9))])
    found = doubts(QaTask, QaOptions(model=str(tiny_bert), train_file=train, dev_file=dev))
    assert [line.split(" (")[0] for line in found] == ["1 of 2 dev records are also trained on"]


def test_many_rare_labels_are_not_all_listed():
    assert rare("aabbc") == ["there is one training example only of 'c'"]
    assert rare("aabb") == []
    assert rare("abcdefg")[0].endswith("'a', 'b', 'c', 'd', 'e', ...")


def test_nothing_to_say():
    assert overlaps(str, {"train": [1, 2], "dev": [3], "test": [4]}) == []
