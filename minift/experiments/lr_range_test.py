"""Which learning rate: a short run in which it rises from far too low to far too high.

The range test of Smith 2017, "Cyclical learning rates for training neural networks".  It is an
ordinary run under the schedule "exponential", on as many records as its steps need, of which
nothing is kept but the loss of each step.  What the curve of the smoothed loss says:

    loss
     |------- - - before - - - - - - - - -/- -
     |       `-.                         /
     |          `-.                   .'
     |             `--..________...--'
     +------------|-----------|-----------|---- rate, by powers of ten
              suggested    lowest     exploded

At the lowest point the rate is about to be too high; a tenth of it stands where the loss falls.
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

from minift.errors import InputError
from minift.files import write_json, write_text
from minift.tasks.base import Task
from minift.training.log import LOG, markdown_table, scatter_plot
from minift.training.options import TrainOptions
from minift.training.run import run
from minift.training.signals import Stopped

HIGHEST, STEPS = 0.1, 100  # rate of the last step, and steps, where the options do not say them
# What makes a run a range test: all that ever learns does so at once, and nothing is evaluated.
RISING = {"schedule": "exponential", "epochs": 1, "unfreeze_epochs": 0, "train_sample": 0}


def smooth(losses: Sequence[float], share: float = 0.9) -> list[float]:
    """Exponential averages, each divided by the weight of what it has seen, as Adam does it.

    >>> [round(value, 2) for value in smooth([4.0, 2.0, 2.0], share=0.5)]  # 2/.5, 2/.75, 2/.875
    [4.0, 2.67, 2.29]
    """
    averages, average = [], 0.0
    for i, loss in enumerate(losses):
        average = share * average + (1 - share) * loss
        averages.append(average / (1 - share ** (i + 1)))
    return averages


def judge(rates: Sequence[float], smoothed: Sequence[float]) -> tuple[float, float | None]:
    """The rate where the loss is lowest, and from which on it exploded; None: nowhere.

    Before: the mean at rates below ten times the first one, which change next to nothing.  The
    lowest stands beyond them and must be less, else `InputError`.  The loss exploded when, beyond
    the lowest, it is first above `before` or twice the lowest.

    >>> judge([1e-5, 1e-4, 1e-3, 1e-2, 1e-1], [0.7, 0.6, 0.3, 0.5, 0.9])
    (0.001, 0.1)
    """
    first = sum(rate < 10 * rates[0] for rate in rates)
    before = sum(smoothed[:first]) / first
    at = min(range(first, len(rates)), key=lambda i: smoothed[i], default=0)
    if at == 0 or smoothed[at] >= before:
        raise InputError(
            f"--learning-rate: from {rates[0]:.0e} up to {rates[-1]:.0e} the loss never fell below "
            f"what it was at first, {before:.4g}; if it rose, give a lower one, such as "
            f"{1000 * rates[0]:.0e}, and if it stayed, a higher one"
        )
    bound = min(before, 2 * smoothed[at])
    exploded = (rates[i] for i in range(at, len(rates)) if smoothed[i] > bound)
    return rates[at], next(exploded, None)


class _Finished(Exception):
    """The run is where it would save its model, which is good for nothing after such rates."""


def part_of(task_class: type[Task], needed: int, seed: int) -> type[Task]:
    """The task with no more training data than needed, drawn at random, and with no other."""

    class Part(task_class):
        @classmethod
        def start(cls, options: Any) -> tuple[Task, Any, dict[str, Sequence[Any]]]:
            task, model, splits = super().start(options)
            count = min(len(splits["train"]), needed)
            return task, model, {"train": random.Random(seed).sample(splits["train"], count)}

        def featurize(self, records: Sequence[Any], training: bool = False) -> list[Any]:
            return super().featurize(records, training)[:needed]  # a record may have several

        def save(self, model: Any, folder: Path) -> None:
            raise _Finished("all steps were taken")

    return Part


def measure(
    task_class: type[Task], task_options: Any, options: TrainOptions
) -> tuple[list[float], list[float], str]:
    """The rate of each step, the loss before that step is taken, and why there are no more.

    A loss that is not finite ends the test; in the first step, like bad input, the script.
    """
    needed = options.min_steps * options.batch_size * options.accumulation
    part = part_of(task_class, needed, options.seed)
    with TemporaryDirectory() as folder:
        log = Path(folder) / LOG
        try:
            run(part, task_options, replace(options, output_dir=Path(folder), log_every=1))
        except (_Finished, InputError) as end:
            if not log.exists() or not log.read_text():
                raise
            ended = str(end).split(";")[0]
        except Stopped as stopped:  # what it saved goes with the folder
            raise Stopped(stopped.signal, "stopped; the same command begins again") from None
        rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row["learning_rate"] for row in rows], [row["loss"] for row in rows], ended


def find_rate(task_class: type[Task], task_options: Any, options: TrainOptions) -> float:
    """Run the test; print and return the rate to use; range.json, table.md, plot.png in the folder.

    options: as for training, but `learning_rate` is that of the last step (the first has 1 /
        100,000 of it) and `min_steps` the test's length; epochs, schedule etc. have no meaning.
    """
    folder = options.output_dir or Path("runs/find-rate")
    if folder.is_file():
        raise InputError(f"{folder}: is a file; give --output-dir a folder")
    highest, steps = options.learning_rate or HIGHEST, options.min_steps or STEPS
    changed = replace(options, learning_rate=highest, min_steps=steps, **RISING)
    rates, losses, ended = measure(task_class, task_options, changed)
    smoothed = smooth(losses)
    lowest, exploded = judge(rates, smoothed)

    curves = {"loss": losses, "smoothed": smoothed}
    points = {name: list(zip(rates, curve, strict=True)) for name, curve in curves.items()}
    few = [*points["smoothed"][: -1 : ceil(len(rates) / 12)], points["smoothed"][-1]]
    table = markdown_table([{"rate": f"{x:.1e}", "smoothed loss": f"{y:.4f}"} for x, y in few])
    title = f"suggested --learning-rate {lowest / 10:.1e}"
    found = {"suggested": lowest / 10, "lowest": lowest, "exploded": exploded, "ended": ended}
    write_json(folder / "range.json", {**found, "points": points})
    write_text(folder / "table.md", table + "\n")
    scatter_plot(folder / "plot.png", points, "learning rate", "loss", title, log_x=True)
    where = f"from {exploded:.1e} on" if exploded else f"nowhere up to {rates[-1]:.1e}"
    print(f"\n{table}\n\nexploded {where}; {ended}; all in {folder}")
    print(f"{title}: a tenth of {lowest:.1e}, where the smoothed loss is lowest")
    return lowest / 10
