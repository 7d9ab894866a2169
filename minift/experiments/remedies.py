"""Remedies against catastrophic forgetting, compared on two tasks (forgetting.py).

    first task  ->  second task, once for each remedy  ->  score on both tasks

A remedy trains fewer parameters, takes smaller steps, pulls the weights back to those of the first
task or averages both, or replays records of the first task.  With a probe, the table also shows how
well the encoder still supports masked language modelling (pretraining/probe.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minift import hub
from minift.experiments.comparison import CompareOptions, finished_run, seed_range, table_of_means
from minift.experiments.forgetting import TwoTaskOptions, TwoTasks
from minift.pretraining.probe import ProbeOptions, probe_loss, train_probe
from minift.tasks.classification import ClassificationTask
from minift.terminal import print_line
from minift.training.defaults import with_defaults
from minift.training.options import LORA, PARTIAL, WHOLE, TrainOptions
from minift.training.run_dir import experiment

FIRST, PROBE = "first", "probe"  # the runs beside those of the remedies
REPLAY = "replay"  # the one remedy that changes the data, by `TwoTaskOptions.replay_ratio`
# Options that the comparison varies or replaces; its script has no flags for them.
WITHOUT = {
    "test_file": "the comparison tests on --first-dev-file; leave it out",
    **dict.fromkeys(
        (*WHOLE, *PARTIAL, *LORA, "layerwise_lr_decay", "l2_sp", "wise_ft_alpha"),
        "the comparison chooses the remedies; leave it out",
    ),
}


def remedies(learning_rate: float, layers: int) -> dict[str, Mapping[str, Any]]:
    """Name of each remedy -> what it changes in `TrainOptions`.

    learning_rate: of the second task without a remedy.
    layers: of the model.

    >>> remedies(5e-5, layers=12)["lower half frozen"]
    {'freeze_embeddings': True, 'freeze_layers': 6}
    """
    return {
        "none": {},
        "a fifth of the learning rate": {"learning_rate": learning_rate / 5},
        "layer-wise decay, 0.7": {"layerwise_lr_decay": 0.7},
        "lower half frozen": {"freeze_embeddings": True, "freeze_layers": layers // 2},
        "head only": {"freeze_encoder": True, "learning_rate": None},
        "L2-SP, 50": {"l2_sp": 50.0},
        REPLAY: {},
        "LoRA, rank 8": {"lora_rank": 8, "lora_alpha": 16.0, "learning_rate": None},
        "WiSE-FT, 0.5": {"wise_ft_alpha": 0.5},
    }


def compare_remedies(
    task_options: TwoTaskOptions,
    options: TrainOptions,
    probe_options: ProbeOptions,
    repeat: CompareOptions,
) -> list[list[dict[str, Any]]]:
    """Train the first task, then the second with each remedy, for each seed.

    Returns a list of rows for each seed, one row for each remedy; accuracies and the Matthews
    correlation are multiplied by 100.  Writes the means over the seeds to table.md.
    """
    TwoTasks.model_class(hub.find_checkpoint(task_options.model))  # refuses other families first
    seeds = seed_range(options.seed, repeat.seeds)
    stages = (FIRST, *remedies(1.0, layers=2))
    names = [PROBE, *(_run_name(stage, seed) for seed in seeds for stage in stages)]
    inputs = (task_options, probe_options)
    with experiment(options.output_dir, "compare-forgetting", names, *inputs) as folder:
        return compare_in(folder, task_options, options, probe_options, seeds)


def _run_name(stage: str, seed: int) -> str:
    """The folder of a run; stage: `FIRST`, or the remedy in the second task.

    >>> _run_name("LoRA, rank 8", 2)
    'LoRA-rank-8-seed2'
    """
    return f"{stage.replace(' ', '-').replace(',', '')}-seed{seed}"


def compare_in(
    folder: Path,
    task_options: TwoTaskOptions,
    options: TrainOptions,
    probe_options: ProbeOptions,
    seeds: Sequence[int],
) -> list[list[dict[str, Any]]]:
    """As `compare_remedies`, in a folder that is this comparison's."""
    probe = None
    if probe_options.probe_file:
        probe = train_probe(task_options.model, probe_options, folder / PROBE)
    learning_rate = with_defaults(TwoTasks, task_options, options)[0].learning_rate
    runs = []
    for seed in seeds:
        before = folder / _run_name(FIRST, seed)
        first = finished_run(
            TwoTasks,
            replace(task_options, stage="first", replay_ratio=0.0),
            replace(options, seed=seed, output_dir=before),
            "the first task",
        )
        _, model = ClassificationTask.from_pretrained(before)
        loss_before = probe_loss(model, folder / PROBE, probe) if probe else None
        rows = []
        for name, changes in remedies(learning_rate, model.num_layers).items():
            target = folder / _run_name(name, seed)
            replay_ratio = task_options.replay_ratio if name == REPLAY else 0.0
            second = finished_run(
                TwoTasks,
                replace(task_options, model=str(before), replay_ratio=replay_ratio),
                replace(options, seed=seed, output_dir=target, **changes),
                name,
            )
            row = {
                "remedy": name,
                "first, before": 100 * first["dev"]["accuracy"],
                "first, after": 100 * second["test"]["accuracy"],
                "second": 100 * second["dev"]["accuracy"],
                "second, Matthews": 100 * second["dev"]["matthews_correlation"],
                "trained": second["trained_parameters"],
                "seconds": second["train_seconds"],
            }
            if probe:
                _, model_after = ClassificationTask.from_pretrained(target)
                row["masked-LM loss before"] = loss_before
                row["masked-LM loss after"] = probe_loss(model_after, folder / PROBE, probe)
            rows.append(row)
        runs.append(rows)
    print_line(
        f"\n{table_of_means(folder / 'table.md', runs, ('remedy', 'trained'))}\n\nin {folder}"
    )
    return runs
