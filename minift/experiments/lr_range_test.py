"""The learning rate range test.

Smith 2017, "Cyclical learning rates for training neural networks".  A short run raises the learning
rate from far too low to far too high.  It is an ordinary run with the schedule "exponential" on as
many records as its steps need; only the loss of each step is kept.
How to read the curve of the smoothed loss:

    loss
     |------- - - initial  - - - - - - - -/- -
     |       `-.                         /
     |          `-.                   .'
     |             `--..________...--'
     +------------|-----------|-----------|---- learning rate (log scale)
              suggested    lowest     exploded

At the lowest point the learning rate is nearly too high; at a tenth of it the loss falls steadily.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from minift.errors import UserError
from minift.files import write_json, write_text
from minift.reports.plots import scatter_plot
from minift.reports.tables import markdown_table
from minift.tasks.base import Task
from minift.terminal import print_line
from minift.training.defaults import with_defaults
from minift.training.log import LOG
from minift.training.options import TrainOptions
from minift.training.run import run
from minift.training.run_dir import experiment
from minift.training.signals import Stopped

HIGHEST, STEPS = 0.1, 100  # defaults: the learning rate of the last step, the number of steps
LEAST_STEPS = 20
# The options of a range test: all layers are trained from the first step, nothing is evaluated.
RANGE_TEST_OPTIONS = {
    "lr_scheduler_type": "exponential",
    "epochs": 1,
    "swa_fraction": 0.0,
    "gradual_unfreezing": 0,
    "train_eval_samples": 0,
}
# Options without a meaning in a range test; its script has no flags for them.
UNUSED_OPTIONS = (
    *RANGE_TEST_OPTIONS,
    *("dev_file", "test_file", "resume", "overwrite", "accept_changes", "warmup_ratio"),
    *("wise_ft_alpha", "early_stopping_patience", "metric_for_best_model"),
    *("eval_steps", "logging_steps", "save_steps"),
    # Of the tasks: nothing is predicted.
    *("aggregation_strategy", "decoding", "max_answer_length", "n_best_size"),
    *("num_beams", "length_penalty", "no_repeat_ngram_size", "beam_early_stopping"),
)


def smooth(losses: Sequence[float], share: float = 0.9) -> list[float]:
    """Exponential moving averages with Adam's bias correction.

    >>> [round(value, 2) for value in smooth([4.0, 2.0, 2.0], share=0.5)]  # 2/.5, 2/.75, 2/.875
    [4.0, 2.67, 2.29]
    """
    averages, average = [], 0.0
    for i, loss in enumerate(losses):
        average = share * average + (1 - share) * loss
        averages.append(average / (1 - share ** (i + 1)))
    return averages


def suggest_learning_rate(
    learning_rates: Sequence[float], smoothed: Sequence[float]
) -> tuple[float, float | None]:
    """The learning rates where the loss is lowest and where it explodes (None: nowhere).

    The initial loss is the mean over learning rates below ten times the first, which hardly change
    the weights.  The lowest loss is sought above them, and must be less than the initial loss, else
    `UserError`.  The loss explodes where, after its lowest point, it is first above the initial
    loss or above twice the lowest.

    >>> suggest_learning_rate([1e-5, 1e-4, 1e-3, 1e-2, 1e-1], [0.7, 0.6, 0.3, 0.5, 0.9])
    (0.001, 0.1)
    """
    first = sum(rate < 10 * learning_rates[0] for rate in learning_rates)
    initial = sum(smoothed[:first]) / first
    lowest = min(range(first, len(learning_rates)), key=lambda i: smoothed[i], default=0)
    if lowest == 0 or smoothed[lowest] >= initial:
        raise UserError(
            f"--learning-rate: from {learning_rates[0]:.0e} up to {learning_rates[-1]:.0e} the "
            f"loss never fell below its initial value of {initial:.4g}; if it rose, give a lower "
            f"one, such as {1000 * learning_rates[0]:.0e}; if it stayed, a higher one"
        )
    bound = min(initial, 2 * smoothed[lowest])
    above = (i for i in range(lowest, len(learning_rates)) if smoothed[i] > bound)
    exploded = next((learning_rates[i] for i in above), None)
    return learning_rates[lowest], exploded


class _Finished(Exception):
    """Ends the run where it would save its model, which such learning rates have ruined."""


def with_few_records(task_class: type[Task], needed: int, seed: int) -> type[Task]:
    """The task with `needed` training records, drawn at random, and without dev and test data."""

    class SmallTask(task_class):
        @classmethod
        def from_options(cls, options: Any) -> tuple[Task, Any, dict[str, Sequence[Any]]]:
            task, model, splits = super().from_options(options)
            count = min(len(splits["train"]), needed)
            return task, model, {"train": random.Random(seed).sample(splits["train"], count)}

        def featurize(self, records: Sequence[Any], training: bool = False) -> list[Any]:
            return super().featurize(records, training)[
                :needed
            ]  # a record may have several features

        def save(self, model: Any, folder: Path) -> None:
            raise _Finished("all steps were taken")

    return SmallTask


def measure(
    task_class: type[Task], task_options: Any, options: TrainOptions
) -> tuple[list[float], list[float], str]:
    """The learning rate of each step, the loss before the step, and why the test ended.

    A loss that is not finite ends the test; in the first step it is an error, as bad input is.
    """
    needed = options.min_steps * options.batch_size * options.gradient_accumulation_steps
    small_task = with_few_records(task_class, needed, options.seed)
    with TemporaryDirectory() as folder:
        log = Path(folder) / LOG
        try:
            changed = replace(options, output_dir=Path(folder), logging_steps=1)
            run(small_task, task_options, changed)
        except (_Finished, UserError) as end:
            if not log.exists() or not log.read_text():
                raise
            ended = str(end).split(";")[0]
        except Stopped as stopped:  # the saved state is deleted with the folder
            raise Stopped(stopped.signal, "stopped; the same command starts over") from None
        rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row["learning_rate"] for row in rows], [row["loss"] for row in rows], ended


def find_learning_rate(task_class: type[Task], task_options: Any, options: TrainOptions) -> float:
    """Run the test; prints and returns the suggested learning rate.

    options: as for training, with two differences.  `learning_rate` is that of the last step (the
        first step has 1 / 100,000 of it), and `min_steps` is the number of steps.  Epochs, schedule
        and evaluation options have no effect.
    Writes range.json, table.md and, if matplotlib is installed, plot.png to the output directory.
    """
    highest, steps = options.learning_rate or HIGHEST, options.min_steps or STEPS
    if steps < LEAST_STEPS:
        raise UserError(
            f"--min-steps is {steps}, too few to see the loss fall; give at least {LEAST_STEPS}"
        )
    changed = replace(options, learning_rate=highest, min_steps=steps, **RANGE_TEST_OPTIONS)
    changed, reasons = with_defaults(task_class, task_options, changed)
    for reason in reasons:
        print_line(f"defaults  {reason}")
    with experiment(options.output_dir, "find-lr", (), task_options) as folder:
        return measure_and_suggest(folder, task_class, task_options, changed)


def measure_and_suggest(
    folder: Path, task_class: type[Task], task_options: Any, options: TrainOptions
) -> float:
    """As `find_learning_rate`, in a folder that is its own; options: of the short run."""
    learning_rates, losses, ended = measure(task_class, task_options, options)
    smoothed = smooth(losses)
    lowest, exploded = suggest_learning_rate(learning_rates, smoothed)

    curves = {"loss": losses, "smoothed": smoothed}
    points = {name: list(zip(learning_rates, curve, strict=True)) for name, curve in curves.items()}
    shown = [*points["smoothed"][: -1 : ceil(len(learning_rates) / 12)], points["smoothed"][-1]]
    table = markdown_table(
        [{"learning rate": f"{x:.1e}", "smoothed loss": f"{y:.4f}"} for x, y in shown]
    )
    title = f"suggested --learning-rate {lowest / 10:.1e}"
    found = {"suggested": lowest / 10, "lowest": lowest, "exploded": exploded, "ended": ended}
    write_json(folder / "range.json", {**found, "points": points})
    write_text(folder / "table.md", table + "\n")
    scatter_plot(folder / "plot.png", points, "learning rate", "loss", title, log_x=True)
    where = f"from {exploded:.1e} on" if exploded else f"nowhere up to {learning_rates[-1]:.1e}"
    print_line(
        f"\n{table}\n\nthe loss explodes {where}; {ended}; in {folder}: range.json, table.md"
    )
    print_line(f"{title}: a tenth of {lowest:.1e}, where the smoothed loss is lowest")
    return lowest / 10
