"""Compare full fine-tuning with training only the head, for each pooling, over several seeds.

Takes the flags of train_classification.py.  Writes a table of dev scores and training times, and a
plot, into --output-dir.
"""

from dataclasses import replace
from pathlib import Path

from minift.experiments.comparison import CompareOptions, compare
from minift.models.encoder import POOLINGS
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions


def main() -> None:
    task_options, options, repeat = command_line(
        ClassificationOptions,
        TrainOptions,
        CompareOptions,
        description=__doc__,
        without={
            "freeze_encoder": "the comparison runs with and without it; leave it out",
            "pooling": "the comparison runs every pooling; leave it out",
        },
    )
    compare(
        ClassificationTask,
        {
            f"{'head only' if frozen else 'full'} {pooling}": (
                replace(task_options, pooling=pooling),
                replace(options, freeze_encoder=frozen),
            )
            for pooling in POOLINGS
            for frozen in (True, False)
        },
        seeds=repeat.seeds,
        folder=options.output_dir or Path("runs/compare-freezing"),
        columns=["accuracy", "matthews_correlation"],
        title="Full fine-tuning and head only",
    )


if __name__ == "__main__":
    run_script(main)
