"""minift beside what people would use instead, on the same data, rates and seeds.

    benchmark.py quality TASK FLAGS    train both with every seed: dev scores, mean and spread
    benchmark.py training TASK FLAGS   training steps in turn: speed, memory, the machine's limit
    benchmark.py inference TASK FLAGS  predictions for a file in turn (not for summarization)
    benchmark.py head TASK FLAGS       a head-only run beside one evaluation pass over its data
    benchmark.py guarantees TASK FLAGS what safe saves and checks cost in a run
    benchmark.py features FLAGS        questions to windows, beside `datasets.map`
    benchmark.py generation FLAGS      generation in turn, with a T5 of random weights
    benchmark.py metrics FLAGS         beside rouge-score, seqeval and torchmetrics' SQuAD

TASK is classification, ner, qa or summarization; FLAGS are those of its training script, and how
long to measure.  The only script that needs the `benchmark` extra, since it runs the others itself.
"""

import importlib.util
import sys

from benchmarks.features import FeaturesOptions, features
from benchmarks.generation import GenerationOptions, generation
from benchmarks.guarantees import guarantees
from benchmarks.inference import InferenceOptions, inference
from benchmarks.metrics import MetricsOptions, metrics_speed
from benchmarks.quality import head, quality
from benchmarks.training import TrainingOptions, training

from minift.errors import InputError
from minift.experiments.comparison import CompareOptions
from minift.tasks.qa import QaOptions
from minift.tasks.registry import TASKS
from minift.training.options import TrainOptions, command_line, run_script

# Name -> what it does, and the options it takes beside those of a task; the first need a task.
OF_A_TASK = {
    "quality": (quality, CompareOptions),
    "training": (training, TrainingOptions),
    "inference": (inference, InferenceOptions),
    "head": (head, CompareOptions),
    "guarantees": (guarantees, CompareOptions),
}
ALONE = {
    "features": (features, (QaOptions, FeaturesOptions)),
    "generation": (generation, (GenerationOptions,)),
    "metrics": (metrics_speed, (MetricsOptions,)),
}


def main() -> None:
    name, *rest = sys.argv[1:] or [""]
    if name in ALONE:
        compare, classes = ALONE[name]
        options = command_line(*classes, argv=rest, description=__doc__)
    elif name in OF_A_TASK and rest and rest[0] in TASKS:
        task, *flags = rest
        compare, extra = OF_A_TASK[name]
        classes = (TASKS[task][1], TrainOptions, extra)
        task_options, train_options, measured = command_line(
            *classes, argv=flags, description=__doc__
        )
        options = task, task_options, train_options.with_rate(task_options.usual_rate), measured
    elif "--help" in sys.argv:
        print(__doc__)
        return
    else:
        raise InputError(
            f"benchmark.py: {' '.join(sys.argv[1:3])!r} says not what to compare; give "
            f"{', '.join(ALONE)}, or {', '.join(OF_A_TASK)} and a task ({', '.join(TASKS)})"
        )
    for package in ("transformers", *(["datasets"] if name == "features" else [])):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed; pip install -e '.[benchmark]'")
    compare(*options)


if __name__ == "__main__":
    run_script(main)
