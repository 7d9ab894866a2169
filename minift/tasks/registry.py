"""The tasks by name.  A new task adds one line."""

from __future__ import annotations

from collections.abc import Sequence

from minift.errors import UserError
from minift.tasks.base import Task, TaskOptions
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.ner import NerOptions, NerTask
from minift.tasks.qa import QaOptions, QaTask
from minift.tasks.summarization import SummarizationOptions, SummarizationTask

TASKS: dict[str, tuple[type[Task], type[TaskOptions]]] = {
    "classification": (ClassificationTask, ClassificationOptions),
    "ner": (NerTask, NerOptions),
    "qa": (QaTask, QaOptions),
    "summarization": (SummarizationTask, SummarizationOptions),
}


def task_and_flags(
    script: str, argv: Sequence[str]
) -> tuple[type[Task], type[TaskOptions], list[str]]:
    """Split a command line "TASK FLAGS" into the task, its options class, and the flags.

    Help without a task shows the flags of classification.  `UserError` for an unknown task.
    """
    task, *flags = argv or [""]
    for help_flag in ("--help", "--help-all"):
        if help_flag in argv:
            task, flags = task if task in TASKS else "classification", [help_flag]
    if task not in TASKS:
        wrong = f"the task is {task!r}" if argv else "the task is missing"
        raise UserError(f"{script}: {wrong}; write {script} {{{','.join(TASKS)}}} FLAGS")
    return *TASKS[task], flags
