"""A learning-rate range test: how high a rate the model bears on your data, and which one to use.

find_rate.py TASK FLAGS: TASK is classification, ner, qa or summarization; FLAGS are those of its
training script.  --learning-rate is the highest rate of the test, which begins at a hundred
thousandth of it, --min-steps its length; nothing is evaluated, and no model is kept.
"""

import sys

from minift.errors import InputError
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.ner import NerOptions, NerTask
from minift.tasks.qa import QaOptions, QaTask
from minift.tasks.summarization import SummarizationOptions, SummarizationTask
from minift.train.options import TrainOptions, command_line, run_script
from minift.train.range_test import HIGHEST, STEPS, find_rate

TASKS = {
    "classification": (ClassificationTask, ClassificationOptions),
    "ner": (NerTask, NerOptions),
    "qa": (QaTask, QaOptions),
    "summarization": (SummarizationTask, SummarizationOptions),
}


def main() -> None:
    task, *flags = sys.argv[1:] or [""]
    if "--help" in sys.argv:
        task, flags = task if task in TASKS else "classification", ["--help"]
    elif task not in TASKS:
        raise InputError(f"find_rate.py: give it {{{','.join(TASKS)}}} FLAGS, not {task!r}")
    task_class, options_class = TASKS[task]
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
