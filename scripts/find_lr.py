"""Find a learning rate with a range test: a short run whose learning rate rises exponentially.

find_lr.py TASK FLAGS: TASK is that of a training script, train_TASK.py; FLAGS are those of its
flags that matter here.  --learning-rate is the last and highest learning rate (the first is
1 / 100,000 of it), --min-steps the number of steps.  Prints a suggestion and writes the loss curve
into --output-dir; the run evaluates nothing and keeps no model.
"""

import sys

from minift.experiments.lr_range_test import HIGHEST, STEPS, UNUSED_OPTIONS, find_learning_rate
from minift.tasks.registry import task_and_flags
from minift.training.cli import command_line, run_script
from minift.training.options import TrainOptions


def main() -> None:
    task_class, flags = task_and_flags("find_lr.py", sys.argv[1:])
    task_options, options = command_line(
        task_class.options_class,
        TrainOptions,
        description=__doc__,
        defaults={"learning_rate": HIGHEST, "min_steps": STEPS},
        without={
            **dict.fromkeys(UNUSED_OPTIONS, "has no effect on a range test; leave it out"),
            **task_class.unsupported_options,
        },
        argv=flags,
    )
    find_learning_rate(task_class, task_options, options)


if __name__ == "__main__":
    run_script(main)
