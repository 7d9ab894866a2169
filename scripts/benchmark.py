"""Compare minift with its peers (mostly `transformers`) on the same data, options and seeds.

    benchmark.py quality TASK FLAGS     train both sides with every seed: dev scores and spread
    benchmark.py training TASK FLAGS    training steps: speed, memory, share of the machine's peak
    benchmark.py inference TASK FLAGS   predictions of one file: speed (not for summarization)
    benchmark.py head TASK FLAGS        a head-only run and one evaluation pass over its data: time
    benchmark.py guarantees TASK FLAGS  time that safe saves and checks take in a run
    benchmark.py features FLAGS         from questions to windows, and `datasets.map`: speed
    benchmark.py generation FLAGS       generation by a T5 with random weights: speed
    benchmark.py metrics FLAGS          rouge-score, seqeval and torchmetrics' SQuAD: speed
    benchmark.py regression OLD FLAGS   an older checkout of minift in the folder OLD: time

TASK is that of a training script, train_TASK.py; FLAGS are its flags and those of the measurement.
The sides run in turn, and their outputs are compared.  Needs the `benchmark` extra, except for
regression.
"""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.features import FeaturesOptions, features
from benchmarks.generation import GenerationOptions, generation
from benchmarks.guarantees import guarantees
from benchmarks.inference import InferenceOptions, inference
from benchmarks.metrics import MetricsOptions, metrics_speed
from benchmarks.peers import PEERS
from benchmarks.quality import head, quality
from benchmarks.regression import RegressionOptions, regression
from benchmarks.training import TrainingOptions, training

from minift.errors import UserError
from minift.experiments.comparison import CompareOptions
from minift.tasks.qa import QaOptions
from minift.tasks.registry import TASKS
from minift.terminal import print_line
from minift.training.cli import command_line, run_script
from minift.training.defaults import with_defaults
from minift.training.options import LORA, PARTIAL, WHOLE, TrainOptions

# Comparison -> its function, and its options beside those of the task.
TASK_COMPARISONS = {
    "quality": (quality, CompareOptions),
    "training": (training, TrainingOptions),
    "inference": (inference, InferenceOptions),
    "head": (head, CompareOptions),
    "guarantees": (guarantees, CompareOptions),
}
# Options without a meaning for a task's comparison -> why.
FOLDER_OPTIONS = dict.fromkeys(
    ("output_dir", "resume", "overwrite", "accept_changes"),
    "a comparison keeps no run; leave it out",
)
MINIFT_OPTIONS = dict.fromkeys(
    (
        *(*WHOLE, *PARTIAL, *LORA),
        *("layerwise_lr_decay", "head_lr_multiplier", "l2_sp", "swa_fraction", "wise_ft_alpha"),
        *("min_steps", "gradient_accumulation_steps", "early_stopping_patience", "save_steps"),
        *("max_skipped_steps", "auto_micro_batch"),
    ),
    "only minift's side would obey it; leave it out",
)
# Comparisons without a task -> function, options.
OTHER_COMPARISONS = {
    "features": (features, (QaOptions, FeaturesOptions)),
    "generation": (generation, (GenerationOptions,)),
    "metrics": (metrics_speed, (MetricsOptions,)),
}


def main() -> None:
    name, *rest = sys.argv[1:] or [""]
    if name == "regression" and rest and not rest[0].startswith("--"):
        (options,) = command_line(RegressionOptions, argv=rest[1:], description=__doc__)
        regression(Path(rest[0]), options)
        return
    if name in OTHER_COMPARISONS:
        compare, classes = OTHER_COMPARISONS[name]
        options = command_line(*classes, argv=rest, description=__doc__)
    elif name in TASK_COMPARISONS and rest and rest[0] in PEERS:
        task, *flags = rest
        compare, extra = TASK_COMPARISONS[name]
        if name == "head" and "freeze_encoder" in TASKS[task].unsupported_options:
            raise UserError(f"head: {task} trains no head on an encoder; give another task")
        classes = (TASKS[task].options_class, TrainOptions, extra)
        without = {**FOLDER_OPTIONS, **TASKS[task].unsupported_options}
        without |= {} if name == "guarantees" else MINIFT_OPTIONS
        task_options, train_options, measurement = command_line(
            *classes, argv=flags, description=__doc__, without=without
        )
        if name != "guarantees":
            both = {"freeze_layers": 0, "swa_fraction": 0.0, "min_steps": 0}
            train_options = replace(train_options, freeze_encoder=name == "head", **both)
        train_options, _ = with_defaults(TASKS[task], task_options, train_options)
        options = (task, task_options, train_options, measurement)
    elif {"--help", "--help-all"} & set(sys.argv):
        print_line(__doc__)
        return
    else:
        raise UserError(
            f"benchmark.py: {' '.join(sys.argv[1:3])!r} names no comparison; give "
            f"{', '.join(OTHER_COMPARISONS)}, or {', '.join(TASK_COMPARISONS)} and a task "
            f"({', '.join(PEERS)}), or regression and the folder of another checkout"
        )
    for package in ("transformers", *(["datasets"] if name == "features" else [])):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed; pip install -e '.[benchmark]'")
    compare(*options)


if __name__ == "__main__":
    run_script(main)
