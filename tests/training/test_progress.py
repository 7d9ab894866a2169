"""What a run prints and refuses, and what a failed run leaves behind."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.running import read_lines

from minift import terminal
from minift.errors import NonFiniteError, UserError
from minift.experiments.comparison import finished_run
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.terminal import ProgressBar, print_line, progress_bar
from minift.training.options import TrainOptions
from minift.training.run import run


@pytest.fixture
def start(tiny_bert, reviews, tmp_path):
    task = ClassificationOptions(
        model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"], dropout=0.0
    )
    options = TrainOptions(output_dir=tmp_path / "out", epochs=1, batch_size=16, device="cpu")
    return task, options


def test_options_that_use_dev_scores_are_refused_without_dev_data(start):
    task, options = start
    task = replace(task, dev_file=None)
    for changes, flag in (
        ({"early_stopping_patience": 2}, "--early-stopping-patience is 2"),
        ({"metric_for_best_model": "f1"}, "--metric-for-best-model is f1"),
        ({"eval_steps": 5}, "--eval-steps is 5"),
    ):
        with pytest.raises(UserError, match=f"{flag}, but there is no dev data"):
            run(ClassificationTask, task, replace(options, **changes))
        assert not options.output_dir.exists()
    # With scores of training records, evaluations take place.
    run(ClassificationTask, task, replace(options, eval_steps=2, train_eval_samples=5))
    assert any("train" in line for line in read_lines(options.output_dir / "log.jsonl"))


def test_without_dev_data_the_run_says_what_was_scored(start, reviews, tmp_path, capsys):
    task, options = start
    run(ClassificationTask, replace(task, dev_file=None), options)
    assert "it was not scored on any data; with a --dev-file," in capsys.readouterr().out
    tested = replace(task, dev_file=None, test_file=reviews["test"])
    run(ClassificationTask, tested, replace(options, output_dir=tmp_path / "tested"))
    assert "it was scored on the test data only; with" in capsys.readouterr().out


def test_only_the_options_that_were_changed_are_shown(start, capsys):
    task, options = start
    run(ClassificationTask, task, options)
    (line,) = [n for n in capsys.readouterr().out.splitlines() if n.startswith("options ")]
    names = [part.split("=")[0] for part in line.removeprefix("options ").strip().split(", ")]
    assert {"model", "epochs", "learning_rate", "output_dir", "dropout"} <= set(names)
    assert "weight_decay" not in names  # 0.01, the default
    assert line.endswith("(the others have their defaults)")


def test_a_finished_run_says_how_its_model_is_trained_further(start):
    task, options = start
    run(ClassificationTask, task, options)
    folder = options.output_dir
    with pytest.raises(UserError, match=f"finished; to train its model further.*--model {folder}"):
        run(ClassificationTask, task, replace(options, resume=True))


@pytest.mark.slow
def test_a_model_that_was_trained_before_is_the_one_to_beat(start, tmp_path, capsys):
    task, options = start
    learned = replace(options, epochs=10, batch_size=4, learning_rate=1e-3)
    first = run(ClassificationTask, task, learned)
    assert first["dev"]["accuracy"] == 1.0
    assert "before training" not in capsys.readouterr().out
    further = replace(task, model=str(options.output_dir))
    ruinous = replace(options, output_dir=tmp_path / "further", learning_rate=0.5)
    second = run(ClassificationTask, further, ruinous)
    assert "before training, step 0  dev  accuracy 1.0000" in capsys.readouterr().out
    assert second["dev"]["accuracy"] == 1.0
    begin, end = (load_file(o.output_dir / "model.safetensors") for o in (options, ruinous))
    assert all(torch.equal(begin[name], end[name]) for name in begin)


def test_a_run_that_fails_before_it_has_logged_anything_leaves_nothing(start, monkeypatch, capsys):
    task, options = start

    def no_memory(self, model, batch):
        raise MemoryError

    monkeypatch.setattr(ClassificationTask, "loss", no_memory)
    for existed in (False, True):
        if existed:
            options.output_dir.mkdir()
        with pytest.raises(UserError, match="out of memory"):
            run(ClassificationTask, task, options)
        assert options.output_dir.exists() == existed
        assert not existed or not list(options.output_dir.iterdir())


def test_a_run_that_fails_later_keeps_its_log_and_a_comparison_its_reason(start, capsys):
    task, options = start
    ruinous = replace(options, learning_rate=1e38, epochs=3)
    logged = replace(ruinous, logging_steps=1)
    with pytest.raises(NonFiniteError):
        run(ClassificationTask, task, logged)
    assert read_lines(options.output_dir / "log.jsonl")
    compared = replace(ruinous, output_dir=options.output_dir.with_name("compared"))
    for _ in range(2):  # the second time it is not run
        with pytest.raises(NonFiniteError):
            finished_run(ClassificationTask, task, compared)
    assert capsys.readouterr().out.count("--- train") == 1
    names = {path.name for path in compared.output_dir.iterdir()}
    assert names == {"options.json", "failed.json"}


# ---- progress ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_line_comes_at_intervals(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    bar = ProgressBar("train", total=30, start=10)
    for i in bar.over(range(10, 30)):
        bar.note(f"loss {i}")
        now[0] += 25.0
    assert capsys.readouterr().err.splitlines() == [
        "train  13 of 30, 7:05 left  loss 12",
        "train  16 of 30, 5:50 left  loss 15",
        "train  19 of 30, 4:35 left  loss 18",
        "train  22 of 30, 3:20 left  loss 21",
        "train  25 of 30, 2:05 left  loss 24",
        "train  28 of 30, 0:50 left  loss 27",
    ]
    assert list(progress_bar(iter("ab"), "of unknown length")) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_in_a_terminal_lines_and_bars_stay_apart(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    bar = ProgressBar("train", total=3)
    for i in bar.over(range(3)):
        bar.note(f"loss 0.{i}")
        print_line(f"step {i} was evaluated")
    shown = terminal.getvalue()
    # What remains of each line when a carriage return begins it again.
    lines = [line.rsplit("\r", 1)[-1] for line in shown.split("\n")]
    assert lines[:3] == [f"step {i} was evaluated" for i in range(3)]
    assert "loss 0.2" in shown
    assert "train:" in shown
