"""What a task must say of itself; and a whole task, defined here, from file to prediction.

The task is a regression: a text gets a number.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from support.running import read_lines

from minift.data.lines import read_lines as lines_of
from minift.data.read import records_of
from minift.errors import UserError
from minift.models.heads import EncoderForSequenceClassification
from minift.predictor import predict_lines
from minift.tasks.base import Metric, Task
from minift.tasks.batches import TokenFeature, head_logits, run_batches, token_batch
from minift.tasks.display import Display
from minift.tasks.options import TaskOptions
from minift.tasks.registry import TASKS
from minift.training.options import TrainOptions
from minift.training.run import run


@dataclass(frozen=True)
class NumberRecord:
    """A text and its number."""

    id: str
    text: str
    number: float | None
    where: str


@dataclass(frozen=True)
class NumberFeature(TokenFeature):
    number: float | None


class NumberDisplay(Display):
    def to_rows(self, predictions, records):
        return [
            {"id": r.id, "text": r.text, "gold": r.number, "predicted": p, "score": None}
            for p, r in zip(predictions, records, strict=True)
        ]


@dataclass(frozen=True)
class NumberTask(Task):
    """Regression; a line of a file is text<TAB>number."""

    name = "numbers"
    model_kind = EncoderForSequenceClassification
    options_class = TaskOptions
    display_class = NumberDisplay
    metrics = (Metric("rmse", higher_is_better=False),)
    saved_fields = ("mean",)

    mean: float = 0.0  # of the training data; the model predicts the difference

    @classmethod
    def read(cls, source, options, *, require_labels=True):
        if not isinstance(source, Path):
            return (NumberRecord(r.id, r.text, None, r.where) for r in records_of(source))
        records = []
        for number, line in lines_of(source):
            text, tab, value = line.partition("\t")
            where = f"{source}, line {number}"
            if require_labels and not tab:
                raise UserError(f"{where}: has no number; write text<TAB>number")
            records.append(NumberRecord("", text, float(value) if tab else None, where))
        return records

    @classmethod
    def labels_of(cls, options, splits):
        return 1  # row of the head

    def fit(self, splits):
        numbers = [record.number for record in splits["train"]]
        return replace(self, mean=sum(numbers) / len(numbers))

    def featurize(self, records, training=False):
        ids = self.tokenizer.ids([record.text for record in records])
        return [
            NumberFeature(i, *self.tokenizer.build(ids[i][: self.max_length - 2]), record.number)
            for i, record in enumerate(records)
        ]

    def collate(self, features):
        known = features[0].number is not None
        numbers = torch.tensor([f.number - self.mean for f in features]) if known else None
        return token_batch(features, self.tokenizer.pad_token_id, labels=numbers)

    def loss(self, model, batch):
        errors = head_logits(model, batch).squeeze(-1) - batch.labels  # (B,)
        return errors.square().sum(), errors.new_tensor(float(len(errors)))

    def predict(self, model, features, batch_size):
        outputs = run_batches(self.collate, model, head_logits, features, batch_size, "predict")
        return [self.mean + output.item() for output in outputs]

    def score(self, predictions, records):
        errors = [p - r.number for p, r in zip(predictions, records, strict=True)]
        return {"rmse": (sum(e * e for e in errors) / len(errors)) ** 0.5}


class WithBaseline(NumberTask):
    baseline_name = "the mean"

    def baseline_score(self, train, dev):
        return self.score([self.mean] * len(dev), dev)["rmse"]


@pytest.fixture
def files(tmp_path):
    """Good is 3, bad is 1."""
    numbers = {"good": 3, "bad": 1}
    things = ("film", "food", "a", "it", "so", "b")
    texts = [(f"the {what} was {w}", n) for what in things for w, n in numbers.items()]
    train, dev = tmp_path / "train.txt", tmp_path / "dev.txt"
    train.write_text("".join(f"{text}\t{number}\n" for text, number in texts[:-2] * 3))
    dev.write_text("".join(f"{text}\t{number}\n" for text, number in texts[-2:]))
    return {"train_file": train, "dev_file": dev}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """The task is registered as any other."""
    monkeypatch.setitem(TASKS, "numbers", NumberTask)
    settings = {"output_dir": tmp_path / "run", "learning_rate": 5e-3, "device": "cpu"}
    return {**settings, "epochs": 10, "batch_size": 4}


def test_a_task_of_six_methods_is_trained_and_predicts(
    tiny_bert, files, settings, tmp_path, capsys
):
    task_options = TaskOptions(model=str(tiny_bert), **files, dropout=0.0)
    found = run(NumberTask, task_options, TrainOptions(**settings))
    assert found["dev"]["rmse"] < 0.5  # the mean alone has 1
    assert (found["baseline"], found["collapsed"]) == (None, False)
    # The best model is that of the lowest error.
    log = [
        line["dev"]["rmse"] for line in read_lines(tmp_path / "run" / "log.jsonl") if "dev" in line
    ]
    assert found["dev"]["rmse"] == pytest.approx(min(log), abs=1e-5)
    # The default texts: the first record, the first rows.
    shown = capsys.readouterr().out
    assert f"first record ({files['train_file']}, line 1)\n  id      0\n  text    the film" in shown
    assert "  number  3\n  tokens  [CLS] the film was good [SEP]\n" in shown
    assert "features  30 of 30 records" in shown
    assert "20 of 30 training records have the same input as an earlier one" in shown
    assert "  id         0\n    text       the b was good\n    gold       3\n" in shown

    rows = read_lines(tmp_path / "run" / "predictions.dev.jsonl")
    again = map(json.loads, predict_lines(tmp_path / "run", files["dev_file"], as_json=True))
    assert [row["predicted"] for row in again] == pytest.approx([r["predicted"] for r in rows])
    typed = list(predict_lines(tmp_path / "run", [row["text"] for row in rows]))
    assert [float(line) for line in typed] == pytest.approx([row["predicted"] for row in rows])
    with pytest.raises(UserError, match=r"--question is 'why', but .* trained for numbers, which"):
        list(predict_lines(tmp_path / "run", ["so"], ["why"]))


def test_encoder_outputs_are_computed_once_for_any_task(tiny_bert, files, settings):
    task_options = TaskOptions(model=str(tiny_bert), **files)
    options = TrainOptions(**{**settings, "learning_rate": None}, freeze_encoder=True)
    assert run(NumberTask, task_options, options)["trained_parameters"] == 33


@pytest.mark.parametrize(("learning_rate", "collapsed"), [(1e-12, True), (5e-3, False)])
def test_collapse_is_measured_in_the_direction_of_the_metric(
    tiny_bert, files, settings, capsys, learning_rate, collapsed
):
    task_options = TaskOptions(model=str(tiny_bert), **files, dropout=0.0)
    options = TrainOptions(**{**settings, "learning_rate": learning_rate})
    found = run(WithBaseline, task_options, options)
    assert (found["baseline"], found["collapsed"]) == (1.0, collapsed)
    assert ("no better than the 1.0000 of the baseline (the mean)" in capsys.readouterr().out) == (
        collapsed
    )


def test_a_wrong_metric_and_a_missing_file_are_refused_at_once(
    tiny_bert, files, settings, tmp_path
):
    options = TrainOptions(**settings, metric_for_best_model="beauty")
    message = "--metric-for-best-model is 'beauty', which numbers does not compute; use one of rmse"
    with pytest.raises(UserError, match=message):
        run(NumberTask, TaskOptions(model="nowhere", **files), options)
    with pytest.raises(UserError, match="--train-file is missing; give one, numbers has no built"):
        run(NumberTask, TaskOptions(model=str(tiny_bert)), TrainOptions(**settings))
    assert not (tmp_path / "run").exists()


def test_a_forgotten_attribute_is_an_error_when_the_class_is_defined():
    with pytest.raises(TypeError, match="does not say its model_kind, options_class, display_"):
        type("Empty", (Task,), {"name": "empty"})


@pytest.mark.parametrize("method", ["read", "featurize", "collate", "loss", "predict", "score"])
def test_a_forgotten_method_is_an_error_when_the_task_is_made(method):
    own = {name: value for name, value in vars(NumberTask).items() if not name.startswith("__")}
    del own[method]
    forgetful = type("Forgetful", (Task,), own)
    with pytest.raises(TypeError, match=rf"abstract.*{method}"):
        forgetful(TaskOptions(), None, 8, ())
    with pytest.raises(TypeError, match=r"abstract.*to_rows"):
        Display(None)


def test_a_metric_says_which_way_it_is_better():
    accuracy, loss = Metric("accuracy"), Metric("loss", higher_is_better=False)
    assert (accuracy.sign, loss.sign) == (1, -1)
    assert accuracy.is_better(0.9, than=0.8)
    assert loss.is_better(0.8, than=0.9)
    assert not any(metric.is_better(0.5, than=0.5) for metric in (accuracy, loss))
    assert NumberTask.metric_named(None) == NumberTask.metric_named("rmse") == NumberTask.metrics[0]


def test_files_may_be_given_as_names():
    options = TaskOptions(train_file=("a.tsv", Path("b.tsv")), dev_file="c.tsv")
    assert options.files("x.{}.tsv") == {
        "train": (Path("a.tsv"), Path("b.tsv")),
        "dev": (Path("c.tsv"),),
    }
    assert TaskOptions(train_file="a.tsv").train_file == (Path("a.tsv"),)
