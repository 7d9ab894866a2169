"""Which learning rate, number of epochs and batch size suit the data: a table and two plots.

Every cell (rate, epochs, batch size) of a grid is run with every seed, or only some cells drawn at
random: of a fine grid they try more values of each of the three than as many cells of a coarse one
(Bergstra and Bengio 2012, "Random Search for Hyper-Parameter Optimization").  They are drawn from
the grid, not between its rates, so that each has its place in the heat map.

    DIR/rate3e-05-epochs2-batch16-seed1/   a run as the loop leaves it, or failed.json
    DIR/logs/                              what each run printed
    DIR/results.json, table.md, heatmap.png, curves.png

A run that is finished, or failed since its loss exploded, is not done again, so the same command
goes on with a sweep that was interrupted at any moment.  The best of many dev scores flatters: how
good the best cell is, only data tell that chose nothing, such as a test file.
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

from minift.errors import InputError
from minift.experiments.comparison import FAILED, finished_or_failed
from minift.experiments.parallel import call_all
from minift.files import read_json, write_json, write_text
from minift.reports.plots import curves, heat_map
from minift.tasks.base import Task, TaskOptions, check_range, option
from minift.training.log import LOG, markdown_table, mean_and_spread
from minift.training.options import TrainOptions
from minift.training.run_dir import METRICS, check_same_options, resolve

SAMPLE = 500  # training records that show the gap, if the user does not say how many
SCORED = "{metric} {score:.4f}  gap {gap:+.4f}  {seconds:.0f} s"

Row = dict[str, Any]


@dataclass(frozen=True)
class SweepOptions:
    """What to try."""

    rates: tuple[float, ...] = option(
        (), "Learning rates; if not given, the usual one, a third of it and three times it."
    )
    epoch_counts: tuple[int, ...] = option((1, 2, 4), "Numbers of epochs.")
    batch_sizes: tuple[int, ...] = option((16, 32), "Batch sizes.")
    seeds: int = option(1, "Runs of each cell, with the seeds --seed, --seed + 1, ...")
    trials: int = option(0, "Cells that are tried, drawn from the grid with --seed; 0: all.")
    jobs: int = option(1, "Runs at the same time, in processes that share the threads.")

    def __post_init__(self) -> None:
        for name, low in {"rates": 1e-12, "epoch_counts": 1, "batch_sizes": 1}.items():
            for value in getattr(self, name):
                if not value >= low:
                    raise ValueError(f"--{name.replace('_', '-')} has {value}; least is {low}")
        for name, low in {"seeds": 1, "trials": 0, "jobs": 1}.items():
            check_range(self, name, low)


class Cell(NamedTuple):
    """Where in the grid a run stands; by these names in results.json too."""

    rate: float
    epochs: int
    batch_size: int

    def __str__(self) -> str:
        return f"rate{self.rate}-epochs{self.epochs}-batch{self.batch_size}"


def choose_cells(search: SweepOptions, options: TrainOptions) -> list[Cell]:
    """The grid in order, or the cells drawn from it; with the same seed, more begin with the fewer.

    options: with the usual rate.

    >>> search = SweepOptions(epoch_counts=(2,), batch_sizes=(8,))
    >>> choose_cells(search, TrainOptions(learning_rate=6e-5))[0]
    Cell(rate=2e-05, epochs=2, batch_size=8)
    """
    around = [float(f"{options.learning_rate * by:.1e}") for by in (1 / 3, 1, 3)]
    grid = map(Cell._make, product(search.rates or around, search.epoch_counts, search.batch_sizes))
    cells = [*dict.fromkeys(grid)]  # a value that was given twice is tried once
    if search.trials > len(cells):
        raise InputError(
            f"--trials is {search.trials}, but the grid has {len(cells)} cells; give fewer, or "
            "more --rates"
        )
    if not search.trials:
        return cells
    random.Random(options.seed).shuffle(cells)
    return cells[: search.trials]


def sweep(
    task_class: type[Task], task_options: TaskOptions, options: TrainOptions, search: SweepOptions
) -> list[Row]:
    """Do each run that is not done yet, `search.jobs` at a time; the rows of results.json.

    `InputError`, which ends the sweep, for what the user has to mend, and where every run failed.
    """
    refuse_what_is_swept(task_options, options)
    folder = options.output_dir or Path("runs/sweep")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give --output-dir a folder")
    metric = options.best_metric or task_class.metric
    cells = choose_cells(search, options.with_rate(task_options.usual_rate))
    seeds = range(options.seed, options.seed + search.seeds)
    # Seed by seed, so that every cell has a score early.
    runs = [
        replace(
            options,
            learning_rate=cell.rate,
            epochs=cell.epochs,
            batch_size=cell.batch_size,
            seed=seed,
            output_dir=folder / f"{cell}-seed{seed}",
            train_sample=options.train_sample or SAMPLE,
        )
        for seed, cell in product(seeds, cells)
    ]
    ends = [] if options.overwrite else [METRICS, FAILED]
    done = [run for run in runs if any((run.output_dir / end).exists() for end in ends)]
    todo = [run for run in runs if run not in done]
    for run in done:
        resolved = resolve(task_options, run)
        check_same_options(run.output_dir, resolved, "choose another --output-dir")
    print(f"{len(runs)} runs, {len(done)} of them done; if interrupted, the same command goes on")

    def finished(i: int) -> None:
        done.append(todo[i])
        row = {"metric": metric, **read_row(todo[i], metric)}
        said = "failed at {failed}" if row["failed"] else SCORED
        name = f"{len(done):3}/{len(runs)}  {todo[i].output_dir.name}"
        print(f"{name}  {said.format(**row)}", flush=True)

    calls = [(task_class, task_options, run, run.output_dir.name) for run in todo]
    logs = [folder / "logs" / f"{run.output_dir.name}.log" for run in todo]
    call_all(finished_or_failed, calls, logs, search.jobs, finished)

    rows = [read_row(run, metric) for run in runs]
    table = markdown_table(table_rows(rows, metric))
    write_json(folder / "results.json", {"metric": metric, "rows": rows})
    write_text(folder / "table.md", table + "\n")
    if all(row["failed"] for row in rows):
        raise InputError(f"{folder}: every run failed, the first at {rows[0]['failed']}")
    plotted = draw(folder, runs, rows, metric)
    plots = ", heatmap.png, curves.png" if plotted else ""
    print(f"\n{table}\n\nin {folder}: table.md, results.json{plots}")
    if not plotted:
        print("no plot: matplotlib is not installed (pip install 'minift[extra]')")
    return rows


def refuse_what_is_swept(task_options: TaskOptions, options: TrainOptions) -> None:
    several = {"learning_rate": "rates", "epochs": "epoch-counts", "batch_size": "batch-sizes"}
    for name, flag in several.items():
        value = getattr(options, name)
        if value != getattr(TrainOptions(), name):
            raise InputError(
                f"--{name.replace('_', '-')} is {value}, but a sweep tries several; use --{flag}"
            )
    if task_options.train_file and not task_options.dev_file:
        raise InputError("--dev-file is missing; give one, since the runs are compared on it")


# ---- what came of it ---------------------------------------------------------------------------


def evaluations(run: TrainOptions) -> list[Row]:
    """The lines of a run's log that hold scores, "dev" and "train"."""
    lines = (run.output_dir / LOG).read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "dev" in line]


def sign(metric: str) -> int:
    """The best score is the highest, but the least loss, as in the loop."""
    return -1 if metric == "loss" else 1


def read_row(run: TrainOptions, metric: str) -> Row:
    """A run in results.json.  Its scores are those of the evaluation that chose its model.

    gap: what the train score has above the dev score.  seconds: of the whole run.
    failed: why the loss exploded, or None; such a run has no scores.
    collapsed: it is no better than an answer without a model.
    """
    cell = Cell(run.learning_rate, run.epochs, run.batch_size)
    row = {**cell._asdict(), "seed": run.seed, "failed": None}
    if (run.output_dir / FAILED).exists():
        return {**row, "failed": read_json(run.output_dir / FAILED)["error"]}
    chosen = max(evaluations(run), key=lambda line: sign(metric) * line["dev"][metric])
    train, dev = (chosen[part][metric] for part in ("train", "dev"))
    row.update(score=dev, train_score=train, gap=train - dev)
    metrics = read_json(run.output_dir / METRICS)
    row.update(seconds=metrics["seconds"], collapsed=metrics["collapsed"])
    return {**row, "dev": chosen["dev"], "train": chosen["train"]}


def by_cell(rows: Sequence[Row], metric: str) -> list[tuple[Cell, float | None, list[Row]]]:
    """Each cell, the best first, with its mean score and its runs that did not fail."""
    groups: dict[Cell, list[Row]] = {}
    for row in rows:
        cell = Cell(*(row[name] for name in Cell._fields))
        groups.setdefault(cell, []).extend([] if row["failed"] else [row])
    scored = [(cell, fmean(r["score"] for r in g) if g else None, g) for cell, g in groups.items()]
    return sorted(scored, key=lambda entry: (not entry[2], -sign(metric) * (entry[1] or 0)))


def table_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """table.md: mean and spread over the runs that did not explode.

    failed: those that did, and those that collapsed.
    """
    seeds = len({row["seed"] for row in rows})
    columns = {f"dev {metric}": "score", f"train {metric}": "train_score"}
    columns |= {"gap": "gap", "seconds": "seconds"}
    table = []
    for cell, _, group in by_cell(rows, metric):
        row = cell._asdict()
        for title, key in columns.items():
            digits = 0 if key == "seconds" else 3
            row[title] = mean_and_spread([r[key] for r in group], digits) if group else "-"
        good = sum(not r["collapsed"] for r in group)
        table.append({**row, "failed": f"{seeds - good} of {seeds}"})
    return table


def draw(folder: Path, runs: Sequence[TrainOptions], rows: Sequence[Row], metric: str) -> bool:
    """heatmap.png of all cells; curves.png of the best of the longest runs with each rate."""
    done = [(row, run) for row, run in zip(rows, runs, strict=True) if not row["failed"]]
    done.sort(key=lambda pair: (pair[0]["epochs"], sign(metric) * pair[0]["score"]))
    longest = {run.learning_rate: run for _, run in done}  # of one rate the last, so the best
    panels = {
        f"rate {rate:g}, batches of {run.batch_size}": evaluations(run)
        for rate, run in sorted(longest.items())
    }
    scores = {cell: mean for cell, mean, _ in by_cell(rows, metric)}
    drawn = heat_map(folder / "heatmap.png", scores, f"dev {metric}")
    return drawn and curves(folder / "curves.png", panels, metric)
