"""Grid search and random search over learning rate, epochs and batch size: a table and two plots.

A cell of the grid is (learning rate, epochs, batch size).  Every cell is run with every seed, or
only cells drawn at random: of a fine grid, N random cells try more values of each hyper-parameter
than N cells of a coarse grid (Bergstra and Bengio 2012, "Random search for hyper-parameter
optimization").  Cells are drawn from the grid, not from the intervals between its values, so that
each has a place in the heat map.

    DIR/rate3e-05-epochs2-batch16-seed1/   the output directory of a run, or failed.json
    DIR/logs/                              the printed output of each run
    DIR/results.json, table.md, heatmap.png, curves.png

A run that is finished, or failed because its loss was not finite, is not run again unless
--overwrite is given, so the same command continues a sweep that was interrupted at any moment.  The
best of many dev scores is optimistic; estimate the quality of the best cell on data that selected
nothing, such as a test file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from minift.errors import UserError
from minift.experiments.comparison import (
    MAX_SEEDS,
    check_dev_file,
    finished_or_failed,
    seed_range,
)
from minift.experiments.parallel import call_all
from minift.files import read_bytes, read_json, write_json, write_text
from minift.options import check_range, flag_of, option
from minift.reports.plots import curves, heat_map
from minift.reports.tables import markdown_table, mean_and_spread
from minift.tasks.base import Metric, Task
from minift.tasks.options import TaskOptions
from minift.terminal import print_line
from minift.training.defaults import resolve_options, with_defaults
from minift.training.log import LOG
from minift.training.options import MAX_BATCH_SIZE, TrainOptions
from minift.training.resume import check_same_options
from minift.training.run_dir import FAILED, LOGS, METRICS, experiment

# Options that a sweep varies; its script has no flags for them.
WITHOUT = {
    "learning_rate": "a sweep tries several; use --learning-rates",
    "epochs": "a sweep tries several; use --epochs-list",
    "batch_size": "a sweep tries several; use --batch-sizes",
}
DEFAULT_TRAIN_EVAL_SAMPLES = 500  # training records to score, which shows over-fitting
SCORED = "{metric} {score:.4f}  gap {gap:+.4f}  {seconds:.0f} s"

Row = dict[str, Any]


@dataclass(frozen=True)
class SweepOptions:
    """The grid to search."""

    learning_rates: tuple[float, ...] = option(
        (),
        "Learning rates; default: the task's own, a third of it and three times it.",
        common=True,
    )
    epochs_list: tuple[int, ...] = option((1, 2, 4), "Numbers of epochs.", common=True)
    batch_sizes: tuple[int, ...] = option((16, 32), "Batch sizes.", common=True)
    seeds: int = option(1, "Runs of each cell, with the seeds --seed, --seed + 1, ...", common=True)
    trials: int = option(
        0, "Cells drawn at random from the grid with --seed; 0: all cells.", common=True
    )
    jobs: int = option(
        1,
        "Runs at the same time, in processes that share the threads; 1: one by one.",
        common=True,
    )

    def __post_init__(self) -> None:
        check_range(self, "learning_rates", 1e-12)
        check_range(self, "epochs_list", 1, 1_000_000)
        check_range(self, "batch_sizes", 1, MAX_BATCH_SIZE)
        for name, low in {"seeds": 1, "trials": 0, "jobs": 1}.items():
            check_range(self, name, low, MAX_SEEDS if name == "seeds" else 1024)


class Cell(NamedTuple):
    """A cell of the grid; results.json has the same names.  rate: the learning rate."""

    rate: float
    epochs: int
    batch_size: int

    def __str__(self) -> str:
        return f"rate{self.rate}-epochs{self.epochs}-batch{self.batch_size}"


def choose_cells(search: SweepOptions, options: TrainOptions) -> list[Cell]:
    """The cells of the grid in order, or `trials` cells drawn from it at random.

    options: with a learning rate, around which the default grid is made.
    With the same seed, a larger number of trials begins with the cells of a smaller one.

    >>> search = SweepOptions(epochs_list=(2,), batch_sizes=(8,))
    >>> choose_cells(search, TrainOptions(learning_rate=6e-5))[0]
    Cell(rate=2e-05, epochs=2, batch_size=8)
    """
    around = [float(f"{options.learning_rate * by:.1e}") for by in (1 / 3, 1, 3)]
    grid = map(
        Cell._make, product(search.learning_rates or around, search.epochs_list, search.batch_sizes)
    )
    cells = [*dict.fromkeys(grid)]  # without duplicates, where a value was given twice
    if search.trials > len(cells):
        raise UserError(
            f"--trials is {search.trials}, but the grid has {len(cells)} cells; give fewer, or "
            "more --learning-rates"
        )
    if not search.trials:
        return cells
    random.Random(options.seed).shuffle(cells)
    return cells[: search.trials]


def sweep(
    task_class: type[Task], task_options: TaskOptions, options: TrainOptions, search: SweepOptions
) -> list[Row]:
    """Do the runs without a result, `search.jobs` at a time; returns the rows of results.json.

    Bad input of any run ends the sweep with `UserError`, and so do runs that all failed.
    """
    check_sweep_options(task_options, options)
    task_class.metric_named(options.metric_for_best_model)  # a wrong name is an error at once
    # An epoch count is given, because the cells decide it: no recipe for few records.
    options, reasons = with_defaults(task_class, task_options, replace(options, epochs=1))
    for reason in reasons:
        print_line(f"defaults  {reason}")
    cells = choose_cells(search, options)
    seeds = seed_range(options.seed, search.seeds)
    names = [f"{cell}-seed{seed}" for seed, cell in product(seeds, cells)]
    with experiment(options.output_dir, "sweep", names, task_options) as folder:
        return sweep_in(folder, task_class, task_options, options, search.jobs, cells, seeds)


def sweep_in(
    folder: Path,
    task_class: type[Task],
    task_options: TaskOptions,
    options: TrainOptions,
    jobs: int,
    cells: Sequence[Cell],
    seeds: Sequence[int],
) -> list[Row]:
    """As `sweep`, in a folder that is its own; options: without None for the task to decide."""
    metric = task_class.metric_named(options.metric_for_best_model)
    # Seeds in the outer loop, so that every cell has a score early.
    runs = [
        replace(
            options,
            learning_rate=cell.rate,
            epochs=cell.epochs,
            batch_size=cell.batch_size,
            seed=seed,
            output_dir=folder / f"{cell}-seed{seed}",
            train_eval_samples=options.train_eval_samples or DEFAULT_TRAIN_EVAL_SAMPLES,
        )
        for seed, cell in product(seeds, cells)
    ]
    results = [] if options.overwrite else [METRICS, FAILED]
    done = [run for run in runs if any((run.output_dir / name).exists() for name in results)]
    todo = [run for run in runs if run not in done]
    for run in done:
        resolved = resolve_options(task_class, task_options, run)
        check_same_options(run.output_dir, resolved, "choose another --output-dir")
    print_line(
        f"{len(runs)} runs, {len(done)} of them done; after an interruption, repeat the command"
    )

    def finished(i: int) -> None:
        done.append(todo[i])
        row = {"metric": metric.name, **read_row(todo[i], metric)}
        outcome = ("failed at {failed}" if row["failed"] else SCORED).format(**row)
        print_line(f"{len(done):3}/{len(runs)}  {todo[i].output_dir.name}  {outcome}")

    calls = [(task_class, task_options, run, run.output_dir.name) for run in todo]
    logs = [folder / LOGS / f"{run.output_dir.name}.log" for run in todo]
    call_all(finished_or_failed, calls, logs, jobs, finished)

    rows = [read_row(run, metric) for run in runs]
    table = markdown_table(table_rows(rows, metric))
    write_json(folder / "results.json", {"metric": metric.name, "rows": rows})
    write_text(folder / "table.md", table + "\n")
    if all(row["failed"] for row in rows):
        raise UserError(f"{folder}: every run failed, the first at {rows[0]['failed']}")
    plotted = draw(folder, runs, rows, metric)
    plots = ", heatmap.png, curves.png" if plotted else ""
    print_line(f"\n{table}\n\nin {folder}: table.md, results.json{plots}")
    if not plotted:
        print_line("no plot: matplotlib is not installed (pip install 'minift[extra]')")
    return rows


def check_sweep_options(task_options: TaskOptions, options: TrainOptions) -> None:
    """`UserError` for a single value of an option that the sweep varies, or a missing dev file."""
    for name, reason in WITHOUT.items():
        value = getattr(options, name)
        if value != getattr(TrainOptions(), name):
            raise UserError(f"{flag_of(name)} is {value}, but {reason}")
    check_dev_file(task_options)


# ---- results -----------------------------------------------------------------------------------


def evaluations(run: TrainOptions) -> list[Row]:
    """The lines of a run's log that hold scores: {"epoch", "dev", "train", ...}."""
    path = run.output_dir / LOG
    try:
        lines = [json.loads(line) for line in read_bytes(path).splitlines()]
    except ValueError:
        lines = []
    scored = [line for line in lines if "dev" in line]
    if not scored:
        raise UserError(
            f"{path}: does not hold the scores of the run; restore the file, or delete "
            f"{run.output_dir}, and the same command repeats the run"
        )
    return scored


def read_row(run: TrainOptions, metric: Metric) -> Row:
    """A run's row in results.json, with the scores of the evaluation that chose its model.

    gap: how much better the train score is than the dev score.
    seconds: of the whole run.
    failed: the error of a run whose loss was not finite, which has no scores; else None.
    collapsed: the run does not beat `Task.baseline_score`.
    """
    cell = Cell(run.learning_rate, run.epochs, run.batch_size)
    row = {**cell._asdict(), "seed": run.seed, "failed": None}
    if (run.output_dir / FAILED).exists():
        return {**row, "failed": read_json(run.output_dir / FAILED)["error"]}
    chosen = max(evaluations(run), key=lambda line: metric.sign * line["dev"][metric.name])
    train, dev = (chosen[part][metric.name] for part in ("train", "dev"))
    row.update(score=dev, train_score=train, gap=metric.sign * (train - dev))
    metrics = read_json(run.output_dir / METRICS)
    row.update(seconds=metrics["seconds"], collapsed=metrics["collapsed"])
    return {**row, "dev": chosen["dev"], "train": chosen["train"]}


def by_cell(rows: Sequence[Row], metric: Metric) -> list[tuple[Cell, float | None, list[Row]]]:
    """(cell, mean score, rows of the runs that did not fail) of each cell, the best first."""
    groups: dict[Cell, list[Row]] = {}
    for row in rows:
        cell = Cell(*(row[name] for name in Cell._fields))
        groups.setdefault(cell, []).extend([] if row["failed"] else [row])
    scored = [(cell, fmean(r["score"] for r in g) if g else None, g) for cell, g in groups.items()]
    return sorted(scored, key=lambda entry: (not entry[2], -metric.sign * (entry[1] or 0)))


def table_rows(rows: Sequence[Row], metric: Metric) -> list[Row]:
    """The rows of table.md: mean and sample standard deviation over the runs with a finite loss.

    "failed" counts the other runs, and those that collapsed.
    """
    seeds = len({row["seed"] for row in rows})
    columns = {f"dev {metric.name}": "score", f"train {metric.name}": "train_score"}
    columns |= {"gap": "gap", "seconds": "seconds"}
    table = []
    for cell, _, group in by_cell(rows, metric):
        row = {"learning rate": cell.rate, "epochs": cell.epochs, "batch size": cell.batch_size}
        for title, key in columns.items():
            digits = 0 if key == "seconds" else 3
            row[title] = mean_and_spread([r[key] for r in group], digits) if group else "-"
        good = sum(not r["collapsed"] for r in group)
        table.append({**row, "failed": f"{seeds - good} of {seeds}"})
    return table


def draw(folder: Path, runs: Sequence[TrainOptions], rows: Sequence[Row], metric: Metric) -> bool:
    """Draw heatmap.png of all cells, and curves.png of one run for each learning rate.

    That run is the best of those with the most epochs.  Returns False without matplotlib.
    """
    done = [(row, run) for row, run in zip(rows, runs, strict=True) if not row["failed"]]
    done.sort(key=lambda pair: (pair[0]["epochs"], metric.sign * pair[0]["score"]))
    longest = {run.learning_rate: run for _, run in done}  # the last of each is the best
    panels = {
        f"learning rate {learning_rate:g}, batch size {run.batch_size}": evaluations(run)
        for learning_rate, run in sorted(longest.items())
    }
    scores = {cell: mean for cell, mean, _ in by_cell(rows, metric)}
    title = f"dev {metric.name}"
    # Both are called in any case: without matplotlib each removes its older plot.
    heat_map_drawn = heat_map(folder / "heatmap.png", scores, title, metric.higher_is_better)
    return curves(folder / "curves.png", panels, metric.name) and heat_map_drawn
