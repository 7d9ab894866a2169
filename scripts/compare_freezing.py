"""Whole model against head only, for each pooling: quality and time, over several seeds."""

from dataclasses import replace
from pathlib import Path

from minift.experiments.comparison import CompareOptions, compare
from minift.models.heads import POOLINGS
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.training.options import TrainOptions, command_line, run_script


def main() -> None:
    task_options, options, repeat = command_line(
        ClassificationOptions, TrainOptions, CompareOptions, description=__doc__
    )
    compare(
        ClassificationTask,
        {
            f"{'head' if frozen else 'whole'} {pooling}": (
                replace(task_options, pooling=pooling),
                replace(options, freeze_encoder=frozen),
            )
            for pooling in POOLINGS
            for frozen in (True, False)
        },
        seeds=repeat.seeds,
        folder=options.output_dir or Path("runs/compare-freezing"),
        columns=["accuracy", "matthews_correlation"],
        title="Whole model against head only",
    )


if __name__ == "__main__":
    run_script(main)
