"""Comparing settings on the same data over several seeds: runs, a table, a plot.

An interrupted comparison continues where it stopped: it skips runs that are finished (metrics.json
exists) and runs that failed because the loss was not finite (failed.json exists), unless
--overwrite is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minift.errors import NonFiniteError, UserError
from minift.files import read_json, write_json, write_text
from minift.options import check_range, option
from minift.reports.plots import scatter_plot
from minift.reports.tables import markdown_table, mean_and_spread
from minift.tasks.base import Task, TaskOptions
from minift.terminal import print_line
from minift.training.cli import command_line
from minift.training.defaults import resolve_options
from minift.training.options import MAX_SEED, TrainOptions
from minift.training.progress import numbers
from minift.training.resume import check_same_options
from minift.training.run import run
from minift.training.run_dir import (
    FAILED,
    METRICS,
    UNFINISHED,
    experiment,
    record_failure,
    state_of,
)
from minift.training.signals import Stopped

MAX_SEEDS = 1000


@dataclass(frozen=True)
class CompareOptions:
    """How often each setting is run."""

    seeds: int = option(3, "Runs of each setting, with the seeds --seed, --seed + 1, ...")

    def __post_init__(self) -> None:
        check_range(self, "seeds", 1, MAX_SEEDS)


def seed_range(first: int, count: int) -> range:
    """The seeds first, first + 1, ...; `UserError` if the last is none."""
    if first + count - 1 > MAX_SEED:
        raise UserError(
            f"--seed is {first}, so that the last of --seeds {count} is above {MAX_SEED}; give a "
            "smaller one"
        )
    return range(first, first + count)


def check_dev_file(task_options: TaskOptions) -> None:
    """`UserError` for training data without dev data, which a comparison needs for its scores."""
    if task_options.train_file and not task_options.dev_file:
        raise UserError("--dev-file is missing; give one, because the comparison uses it")


def finished_run(
    task_class: type[Task], task_options: Any, options: TrainOptions, name: str = "train"
) -> dict[str, Any]:
    """The metrics of the run in `output_dir`, which is run or resumed first if it is not finished.

    name: of the setting, for the line that is printed before the run.
    Raises `UserError` if a run with other options is there, and `NonFiniteError` if the run failed
    because its loss was not finite.
    """
    folder = options.output_dir
    results = [file for file in (METRICS, FAILED) if (folder / file).exists()]
    if results and not options.overwrite:
        check_same_options(
            folder,
            resolve_options(task_class, task_options, options),
            "choose another --output-dir",
        )
        found = read_json(folder / results[0])
        if results[0] == FAILED:
            raise NonFiniteError(found["error"])
        return found
    print_line(f"\n--- {name}, seed {options.seed}")
    resume = options.resume and state_of(folder) == UNFINISHED
    changed = replace(options, resume=resume, overwrite=not resume)
    try:
        return run(task_class, task_options, changed)
    except NonFiniteError as error:
        resolved = resolve_options(task_class, task_options, options)
        record_failure(folder, resolved, str(error))
        raise
    except Stopped as stopped:
        message = f"stopped in {folder.name}, and saved; the same command with --resume continues"
        raise Stopped(stopped.signal, message) from None


def finished_or_failed(*run: Any) -> dict[str, Any] | None:
    """As `finished_run`, but None for a run whose loss was not finite, so that others continue."""
    try:
        return finished_run(*run)
    except NonFiniteError as error:
        print_line(f"failed: {error}")
        return None


def table_of_means(
    path: Path, runs: Sequence[Sequence[Mapping[str, Any]]], keys: Sequence[str]
) -> str:
    """A table of rows that were measured once for each seed; it is also written to `path`.

    runs: one list of rows for each seed, with the same rows in the same order.
    keys: columns that are shown unchanged; the others show mean and sample standard deviation.
    """
    rows = []
    for same in zip(*runs, strict=True):
        row = {key: same[0][key] for key in keys}
        for column in same[0]:
            if column not in keys:
                row[column] = mean_and_spread([one[column] for one in same], digits=2)
        rows.append(row)
    table = markdown_table(rows) if rows else "nothing to compare"
    write_text(path, table + "\n")
    return table


def compare(
    task_class: type[Task],
    variants: Mapping[str, tuple[Any, TrainOptions]],
    seeds: int,
    output_dir: Path | None,
    experiment_name: str,
    columns: Sequence[str],
    title: str,
    more: Callable[[Path, Any], Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Run every variant with every seed; returns one table row for each variant.

    variants: name -> (task options, training options).
    output_dir, experiment_name: as `training.run_dir.experiment` takes them.
    columns: the dev metrics to show; the plot shows the first of them against time.
    more: computes further columns of a finished run from its folder and task options.

    The column "failed" counts runs whose loss was not finite, which the means leave out, and runs
    that do not beat `Task.baseline_score`, which the means include.
    Writes results.json, table.md and, if matplotlib is installed, plot.png.
    """
    some_task_options, some_options = next(iter(variants.values()))
    all_seeds = seed_range(some_options.seed, seeds)
    runs = [_run_name(name, seed) for seed in all_seeds for name in variants]
    with experiment(output_dir, experiment_name, runs, some_task_options) as folder:
        return compare_in(folder, task_class, variants, all_seeds, columns, title, more)


def _run_name(variant: str, seed: int) -> str:
    """The folder of a run.

    >>> _run_name("head only", 2)
    'head-only-seed2'
    """
    return f"{variant.replace(' ', '-')}-seed{seed}"


def compare_in(
    folder: Path,
    task_class: type[Task],
    variants: Mapping[str, tuple[Any, TrainOptions]],
    seeds: Sequence[int],
    columns: Sequence[str],
    title: str,
    more: Callable[[Path, Any], Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """As `compare`, in a folder that is this comparison's."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    extra_columns: dict[str, list[Mapping[str, float]]] = {name: [] for name in variants}
    # Seeds in the outer loop, so that every variant has its first result early.
    for seed in seeds:
        for name, (task_options, options) in variants.items():
            target = folder / _run_name(name, seed)
            changed = replace(options, seed=seed, output_dir=target)
            metrics = finished_or_failed(task_class, task_options, changed, name)
            if metrics is not None:
                results[name].append(metrics)
                extra_columns[name].append(more(target, task_options) if more is not None else {})

    rows = []
    for name, runs in results.items():
        if not runs:
            raise UserError(
                f"{folder}: in every run of {name} the loss was not finite; lower --learning-rate"
            )
        row = {"setting": name}
        for column in columns:
            row[column] = mean_and_spread([metrics["dev"][column] for metrics in runs])
        for column in extra_columns[name][0]:
            row[column] = mean_and_spread([found[column] for found in extra_columns[name]])
        failed = len(seeds) - len(runs) + sum(metrics["collapsed"] for metrics in runs)
        row["failed"] = f"{failed} of {len(seeds)}"
        row["seconds"] = f"{sum(metrics['seconds'] for metrics in runs) / len(runs):.0f}"
        rows.append(row)
    points = {
        name: [(metrics["seconds"], metrics["dev"][columns[0]]) for metrics in runs]
        for name, runs in results.items()
    }
    table = markdown_table(rows)
    write_json(folder / "results.json", {"rows": rows, "points": points})
    write_text(folder / "table.md", table + "\n")
    plotted = scatter_plot(
        folder / "plot.png", points, "seconds of the whole run", columns[0], title, log_x=True
    )
    print_line(f"\n{table}\n\nin {folder}: table.md, results.json{', plot.png' if plotted else ''}")
    if not plotted:
        print_line("no plot: matplotlib is not installed (pip install 'minift[extra]')")
    return rows


def train_script(task_class: type[Task], description: str | None) -> None:
    """The body of a training script: one run, or --seeds runs and a table of them."""
    task_options, options, repeat = command_line(
        task_class.options_class,
        TrainOptions,
        CompareOptions,
        description=description,
        defaults={"seeds": 1},
        without=task_class.unsupported_options,
    )
    if repeat.seeds == 1:
        run(task_class, task_options, options)
        return
    if task_options.train_file and not task_options.dev_file:
        raise UserError("--seeds compares runs by their dev scores; give a --dev-file")

    def scores_on_test(folder: Path, _: Any) -> dict[str, float]:
        scores = numbers(read_json(folder / METRICS).get("test", {}))
        return {f"test {name}": value for name, value in scores.items()}

    compare(
        task_class,
        {task_class.name: (task_options, options)},
        seeds=repeat.seeds,
        output_dir=options.output_dir,
        experiment_name=task_class.name,
        columns=[task_class.metric_named(options.metric_for_best_model).name],
        title=f"{task_class.name}, {repeat.seeds} seeds",
        more=scores_on_test,
    )
