"""Compare full fine-tuning with training only the head, for each pooling, over several seeds.

Takes the flags of train_classification.py.  Writes a table of dev scores and training times, and a
plot, into --output-dir.
"""

from minift.experiments.comparison import CompareOptions
from minift.experiments.freezing import WITHOUT, compare_freezing
from minift.tasks.classification import ClassificationOptions
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions


def main() -> None:
    task_options, options, repeat = command_line(
        ClassificationOptions, TrainOptions, CompareOptions, description=__doc__, without=WITHOUT
    )
    compare_freezing(task_options, options, repeat)


if __name__ == "__main__":
    run_script(main)
