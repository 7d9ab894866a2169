"""The learning-rate range test: the rule on curves that are known, and the whole test."""

from __future__ import annotations

import json
import random
import signal
from dataclasses import replace
from itertools import pairwise

import pytest
from support.running import run_script

from minift.errors import UserError
from minift.experiments.lr_range_test import (
    UNUSED_OPTIONS,
    find_learning_rate,
    smooth,
    suggest_learning_rate,
    with_few_records,
)
from minift.files import read_json
from minift.options import flag_of
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.registry import TASKS
from minift.training.options import TrainOptions
from minift.training.run import run
from minift.training.signals import Stopped

RATES = [10.0**power for power in range(-5, 0)]


def test_the_worked_examples():
    assert smooth([4.0, 2.0, 2.0], share=0.5) == pytest.approx([4, 2 / 0.75, 2 / 0.875])
    assert smooth([3.0] * 50) == pytest.approx([3.0] * 50)
    assert suggest_learning_rate(RATES, [0.7, 0.6, 0.3, 0.5, 0.9]) == (RATES[2], RATES[4])


def test_where_the_loss_is_lowest_and_where_it_explodes():
    assert suggest_learning_rate(RATES, [0.7, 0.6, 0.5, 0.4, 0.3]) == (RATES[4], None)
    assert suggest_learning_rate(RATES, [2.0, 0.5, 0.4, 0.7, 0.9]) == (
        RATES[2],
        RATES[4],
    )  # above twice the lowest
    # What is low at first is not the lowest: no rate below ten times the first one is.
    learning_rates = [1e-5, 2e-5, 4e-5, 1.1e-4, 1e-3]
    assert suggest_learning_rate(learning_rates, [0.9, 0.1, 0.8, 0.5, 0.7]) == (1.1e-4, 1e-3)


@pytest.mark.parametrize("losses", [[0.7], [0.7, 0.8, 0.9, 2.0, 5.0], [0.7] * 5])
def test_a_loss_that_never_falls_is_refused(losses):
    with pytest.raises(UserError, match=r"--learning-rate: from 1e-05 .* 0\.7; .* as 1e-02"):
        suggest_learning_rate(RATES[: len(losses)], losses)


@pytest.mark.parametrize("curvature", [0.1, 1.0, 30.0])
def test_on_a_quadratic_it_stays_under_the_learning_rate_that_diverges(curvature):
    """Gradient descent on curvature / 2 * (x - noise) ** 2 diverges above 2 / curvature."""
    chance = random.Random(1)
    x, learning_rates, losses = 3.0, [], []
    while len(learning_rates) < 101 and abs(x) < 1e6:
        error = x - chance.gauss(0, 0.3)
        learning_rates.append(10 ** (len(learning_rates) / 20 - 3))
        losses.append(curvature / 2 * error**2)
        x -= learning_rates[-1] * curvature * error
    lowest, exploded = suggest_learning_rate(learning_rates, smooth(losses))
    assert 0.02 / curvature < lowest / 10 < 2 / curvature < exploded < 20 / curvature


def test_the_part_is_drawn_from_the_training_data(tiny_bert, reviews):
    options = ClassificationOptions(
        model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"]
    )
    drawn = []
    for needed, seed in ((12, 1), (12, 1), (12, 2), (1000, 1)):
        part = with_few_records(ClassificationTask, needed, seed)
        task, _, splits = part.from_options(options)
        assert splits.keys() == {"train"}
        drawn.append([record.text for record in splits["train"]])
        # Short windows: a record has several features.
        several = replace(task, options=replace(options, truncation="windows"), max_length=5)
        assert len(several.featurize(splits["train"], training=True)) <= needed
    assert [len(set(texts)) for texts in drawn] == [12, 12, 12, 50]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.fixture
def options(tiny_bert, reviews, tmp_path):
    task = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"], dropout=0.0)
    return task, TrainOptions(output_dir=tmp_path / "out", batch_size=4, device="cpu")


@pytest.mark.slow
def test_the_suggested_learning_rate_trains_and_the_one_that_explodes_does_not(
    options, reviews, tmp_path, capsys
):
    task, train = options
    rate = find_learning_rate(ClassificationTask, task, train)
    found = json.loads((tmp_path / "out" / "range.json").read_text())
    assert found["suggested"] == rate == found["lowest"] / 10
    assert 1e-4 < rate < found["lowest"] < found["exploded"] <= 0.1
    learning_rates, losses = zip(*found["points"]["loss"], strict=True)
    # 50 records are 13 steps an epoch; 8 epochs are at least 100 steps.
    assert len(learning_rates) == 104
    assert (learning_rates[0], learning_rates[-1]) == (pytest.approx(1e-6), pytest.approx(0.1))
    assert [b / a for a, b in pairwise(learning_rates)] == pytest.approx([10 ** (5 / 103)] * 103)
    assert [y for _, y in found["points"]["smoothed"]] == pytest.approx(smooth(losses))
    said = capsys.readouterr().out
    assert f"suggested --learning-rate {rate:.1e}: a tenth of {found['lowest']:.1e}" in said
    assert f"explodes from {found['exploded']:.1e} on; all steps were taken" in said
    assert (tmp_path / "out" / "table.md").read_text() in said
    # Neither a model nor anything else of a run.
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left - {"plot.png"} == {"options.json", "range.json", "table.md"}
    assert read_json(tmp_path / "out" / "options.json")["experiment"] == "find-lr"

    task = replace(task, dev_file=reviews["dev"])
    reached = {}
    for name, value in {"suggested": rate, "exploded": found["exploded"]}.items():
        changed = replace(train, learning_rate=value, output_dir=tmp_path / name)
        changed = replace(changed, epochs=12, metric_for_best_model="loss")
        reached[name] = run(ClassificationTask, task, changed)["dev"]["loss"]
    assert reached["suggested"] < 0.1 < reached["exploded"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_test(options, tmp_path, capsys):
    class Fragile(ClassificationTask):
        calls = 0

        def loss(self, model, batch):
            Fragile.calls += 1
            total, count = super().loss(model, batch)
            return total * (float("inf") if Fragile.calls > self.last else 1), count

    task, train = options
    Fragile.last = 85
    rate = find_learning_rate(Fragile, task, train)
    found = json.loads((tmp_path / "out" / "range.json").read_text())
    assert len(found["points"]["loss"]) == 85
    assert found["ended"] == "step 86: the loss or its gradient is not finite, first in the loss"
    assert found["ended"] in capsys.readouterr().out
    assert rate < found["points"]["loss"][-1][0]

    # In the first steps there is nothing yet to use.
    for last, step in ((0, "step 1"), (7, "--learning-rate: from 1e-06 up to 2e-06 the loss")):
        Fragile.calls, Fragile.last = 0, last
        with pytest.raises(UserError, match=step):
            find_learning_rate(Fragile, task, train)


def test_a_signal_stops_it_and_nothing_is_left(options, tmp_path):
    class Asked(ClassificationTask):
        def loss(self, model, batch):
            signal.raise_signal(signal.SIGTERM)
            return super().loss(model, batch)

    with pytest.raises(Stopped, match="the same command starts over") as stopped:
        find_learning_rate(Asked, *options)
    assert stopped.value.signal == signal.SIGTERM
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_script_has_the_options_of_the_task_and_of_training(tiny_bert, reviews, tmp_path):
    flags = ["--model", tiny_bert, "--train-file", reviews["train"], "--device", "cpu"]
    done = run_script(
        *("find_lr", "classification", *flags, "--freeze-encoder", "--pooling", "mean"),
        *("--min-steps", 40, "--batch-size", 8, "--learning-rate", 1),
        cwd=tmp_path,
    )
    assert "66 of them trained" in done.stdout
    found = json.loads((tmp_path / "runs" / "find-lr-1" / "range.json").read_text())
    assert len(found["points"]["loss"]) == 42  # six epochs of 7 steps
    assert found["points"]["loss"][-1][0] == 1
    assert done.stdout.splitlines()[-1].startswith("suggested --learning-rate ")

    early = run_script("find_lr", "classification", *flags, "--learning-rate", 1e6, check=False)
    assert early.returncode == 2
    assert "--learning-rate: from 1e+01 up to" in early.stderr.splitlines()[-1]


def test_what_the_script_refuses(tiny_bert, reviews, tmp_path):
    for words in ([], ["poetry"], ["--train-file", "a.tsv"]):
        done = run_script("find_lr", *words, check=False)
        assert done.returncode == 2
        assert f"{{{','.join(TASKS)}}}" in done.stderr.splitlines()[-1]
    assert "--label-strategy" in run_script("find_lr", "ner", "--help-all").stdout
    for name in UNUSED_OPTIONS:  # whatever would have no effect
        done = run_script("find_lr", "classification", flag_of(name), 1, check=False)
        assert done.returncode == 2
        assert (
            f"{flag_of(name)}: has no effect on a range test; leave it out"
            in done.stderr.splitlines()[-1]
        )
    for flags, word in (
        (["--output-dir", reviews["train"]], "is a file; give --output-dir a folder"),
        (["--train-file", tmp_path / "none.tsv"], "none.tsv: no such file"),
    ):
        done = run_script("find_lr", "classification", "--model", tiny_bert, *flags, check=False)
        assert done.returncode == 2
        assert word in done.stderr.splitlines()[-1]
