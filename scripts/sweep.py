"""Search a grid, or a random part of it, for learning rate, number of epochs and batch size.

sweep.py TASK FLAGS: TASK is that of a training script, train_TASK.py; FLAGS are its flags and the
values to try.  Writes a table of dev scores, a heat map and learning curves into --output-dir.  The
same command with the same --output-dir continues an interrupted sweep.
"""

import sys

from minift.experiments.sweep import WITHOUT, SweepOptions, sweep
from minift.tasks.registry import task_and_flags
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions


def main() -> None:
    task_class, flags = task_and_flags("sweep.py", sys.argv[1:])
    task_options, options, search = command_line(
        task_class.options_class,
        TrainOptions,
        SweepOptions,
        description=__doc__,
        without={**WITHOUT, **task_class.unsupported_options},
        argv=flags,
    )
    sweep(task_class, task_options, options, search)


if __name__ == "__main__":
    run_script(main)
