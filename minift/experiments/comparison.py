"""The same data under several settings and seeds: runs, a table, a plot.

A comparison that was interrupted goes on where it stopped: a run that has its metrics.json is not
done again, nor one whose loss exploded, which leaves failed.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minift.errors import InputError, NotFinite
from minift.files import read_json, write_json, write_text
from minift.tasks.base import Task, check_range, option
from minift.training.log import markdown_table, mean_and_spread, numbers, scatter_plot
from minift.training.options import TrainOptions, command_line
from minift.training.run import run
from minift.training.run_dir import METRICS, check_same_options, output_folder, resolve
from minift.training.signals import Stopped

FAILED = "failed.json"


@dataclass(frozen=True)
class CompareOptions:
    """How often to repeat."""

    seeds: int = option(3, "Runs of each setting, with the seeds --seed, --seed + 1, ...")

    def __post_init__(self) -> None:
        check_range(self, "seeds", 1)


def finished_run(
    task_class: type[Task], task_options: Any, options: TrainOptions, name: str = "train"
) -> dict[str, Any]:
    """The metrics of the run in `output_dir`, which is done now if it is not finished there.

    `InputError` if the one that is there had other options.  `NotFinite` if its loss exploded.
    """
    folder = options.output_dir
    done = [file for file in (METRICS, FAILED) if (folder / file).exists()]
    if done and not options.overwrite:
        check_same_options(folder, resolve(task_options, options), "choose another --output-dir")
        found = read_json(folder / done[0])
        if done[0] == FAILED:
            raise NotFinite(found["error"])
        return found
    print(f"\n--- {name}, seed {options.seed}", flush=True)
    begun = folder.exists()
    resume = options.resume and begun
    changed = replace(options, resume=resume, overwrite=begun and not resume)
    try:
        return run(task_class, task_options, changed)
    except NotFinite as error:
        write_json(folder / FAILED, {"error": str(error)})
        raise
    except Stopped as stopped:
        why = f"stopped in {folder.name}, and saved; the same command with --resume goes on"
        raise Stopped(stopped.signal, why) from None


def finished_or_failed(*run: Any) -> dict[str, Any] | None:
    """As `finished_run`, but None if the loss exploded: the other runs go on."""
    try:
        return finished_run(*run)
    except NotFinite as error:
        print(f"failed: {error}", flush=True)
        return None


def table_of_means(
    path: Path, runs: Sequence[Sequence[Mapping[str, Any]]], keys: Sequence[str]
) -> str:
    """Rows measured once a seed -> one table: `keys` as they are, the mean and spread of all else.

    The table is written to `path` as well.
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
    folder: Path,
    columns: Sequence[str],
    title: str,
    more: Callable[[Path, Any], Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Run every variant (name -> task options, options) with every seed; one table row for each.

    columns: the dev metrics to show; the first is the one that the plot sets against time.
    more: further numbers of a finished run, from its folder and its task options; each becomes a
        column.
    A run has failed if its loss exploded, which leaves it out of the means, or if it is no better
    than an answer without a model (`Task.trivial_score`), which does not.
    Leaves results.json, table.md and, where matplotlib is installed, plot.png in `folder`.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    further: dict[str, list[Mapping[str, float]]] = {name: [] for name in variants}
    # Seed by seed, so that the first complete row of every variant is there early.
    for i in range(seeds):
        for name, (task_options, options) in variants.items():
            seed = options.seed + i
            target = folder / f"{name.replace(' ', '-')}-seed{seed}"
            changed = replace(options, seed=seed, output_dir=target)
            metrics = finished_or_failed(task_class, task_options, changed, name)
            if metrics is not None:
                results[name].append(metrics)
                further[name].append(more(target, task_options) if more is not None else {})

    rows = []
    for name, runs in results.items():
        if not runs:
            raise InputError(f"{folder}: all runs of {name} exploded; lower --learning-rate")
        row = {"setting": name}
        for column in columns:
            row[column] = mean_and_spread([metrics["dev"][column] for metrics in runs])
        for column in further[name][0]:
            row[column] = mean_and_spread([found[column] for found in further[name]])
        failed = seeds - len(runs) + sum(metrics["collapsed"] for metrics in runs)
        row["failed"] = f"{failed} of {seeds}"
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
    print(f"\n{table}\n\nin {folder}: table.md, results.json{', plot.png' if plotted else ''}")
    if not plotted:
        print("no plot: matplotlib is not installed (pip install 'minift[extra]')")
    return rows


def train_script(
    task_class: type[Task], options_class: type, description: str | None, **defaults: Any
) -> None:
    """What the scripts that train do: one run, or one for each of --seeds with a table of them.

    defaults: of options, where they differ from those of the dataclasses.
    """
    task_options, options, repeat = command_line(
        options_class,
        TrainOptions,
        CompareOptions,
        description=description,
        defaults={"seeds": 1, **defaults},
    )
    if repeat.seeds == 1:
        run(task_class, task_options, options)
        return
    if task_options.train_file and not task_options.dev_file:
        raise InputError("--seeds compares runs by their dev scores; give a --dev-file")
    if options.output_dir is None:
        options = replace(options, output_dir=output_folder(options, task_class.name))

    def on_test(folder: Path, _: Any) -> dict[str, float]:
        scores = numbers(read_json(folder / METRICS).get("test", {}))
        return {f"test {name}": value for name, value in scores.items()}

    compare(
        task_class,
        {task_class.name: (task_options, options)},
        seeds=repeat.seeds,
        folder=options.output_dir,
        columns=[task_class.metric],
        title=f"{task_class.name}, {repeat.seeds} seeds",
        more=on_test,
    )
