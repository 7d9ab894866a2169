"""A learning-rate range test: how high a rate the model bears on your data, and which one to use.

find_lr.py TASK FLAGS: TASK is classification, ner, qa or summarization; FLAGS are those of its
training script.  --learning-rate is the highest rate of the test, which begins at a hundred
thousandth of it, --min-steps its length; nothing is evaluated, and no model is kept.
"""

import sys

from minift.experiments.lr_range_test import HIGHEST, STEPS, find_rate
from minift.tasks.registry import task_and_flags
from minift.training.options import TrainOptions, command_line, run_script


def main() -> None:
    task_class, options_class, flags = task_and_flags("find_lr.py", sys.argv[1:])
    task_options, options = command_line(
        options_class,
        TrainOptions,
        description=__doc__,
        defaults={"learning_rate": HIGHEST, "min_steps": STEPS},
        argv=flags,
    )
    find_rate(task_class, task_options, options)


if __name__ == "__main__":
    run_script(main)
