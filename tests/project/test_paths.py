"""Python functions that take a path take it as a string too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_type_hints

import pytest

from minift import BertForSequenceClassification, Tokenizer, add_lora, load_adapter, save_adapter
from minift.experiments.forgetting import TwoTaskOptions
from minift.predictor import predict_lines
from minift.pretraining.probe import ProbeOptions
from minift.pretraining.run import PretrainOptions
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.registry import TASKS, task_of
from minift.training.options import TrainOptions
from minift.training.run import run

OPTIONS = [
    *(task.options_class for task in TASKS.values()),
    *(TrainOptions, TwoTaskOptions, PretrainOptions, ProbeOptions),
]


@pytest.mark.parametrize("cls", OPTIONS, ids=lambda cls: cls.__name__)
def test_options_turn_strings_into_paths(cls):
    hints = {n: h for n, h in get_type_hints(cls).items() if "Path" in str(h)}
    assert hints
    fields = {field.name for field in dataclasses.fields(cls)}
    options = cls(**{name: "a/b" for name in hints if name in fields})
    for name, hint in hints.items():
        several = "tuple" in str(hint)
        assert getattr(options, name) == ((Path("a/b"),) if several else Path("a/b")), name
        if several:
            both = dataclasses.replace(options, **{name: ["a", Path("b")]})
            assert getattr(both, name) == (Path("a"), Path("b"))


def test_a_run_and_its_model_by_strings(tiny_bert, reviews, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = ClassificationOptions(model=str(tiny_bert), train_file="train.tsv", dev_file="dev.tsv")
    run(ClassificationTask, task, TrainOptions(output_dir="runs/x", epochs=1, device="cpu"))
    assert task_of("runs/x") is ClassificationTask
    loaded, model = ClassificationTask.from_pretrained("runs/x")
    assert len(list(loaded.read_inputs("test.tsv"))) == len(reviews["test"].open().readlines())
    assert len(list(predict_lines("runs/x", "test.tsv"))) == len(
        list(predict_lines("runs/x", Path("test.tsv")))
    )
    loaded.save(model, "runs/saved")
    BertForSequenceClassification.from_pretrained("runs/saved").save_pretrained("runs/again")
    Tokenizer.from_pretrained("runs/saved").save_pretrained("runs/again")
    adapted = add_lora(BertForSequenceClassification.from_pretrained("runs/saved"))
    save_adapter(adapted, "runs/adapter")
    load_adapter(BertForSequenceClassification.from_pretrained("runs/saved"), "runs/adapter")
    assert type(model.config).from_pretrained("runs/again").labels == ("neg", "pos")
