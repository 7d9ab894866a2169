"""Which learning rate, number of epochs and batch size suit the data: a grid, or a random part.

sweep.py TASK FLAGS: TASK is classification, ner, qa or summarization; FLAGS are those of its
training script, and what to try.  The same command goes on with a sweep that was interrupted.
"""

import sys

from minift.experiments.sweep import SweepOptions, sweep
from minift.tasks.registry import task_and_flags
from minift.training.options import TrainOptions, command_line, run_script


def main() -> None:
    task_class, options_class, flags = task_and_flags("sweep.py", sys.argv[1:])
    task_options, options, search = command_line(
        options_class, TrainOptions, SweepOptions, description=__doc__, argv=flags
    )
    sweep(task_class, task_options, options, search)


if __name__ == "__main__":
    run_script(main)
