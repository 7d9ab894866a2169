"""The tasks by name: a new one adds a line here."""

from __future__ import annotations

from collections.abc import Sequence

from minift.errors import InputError
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
    """The task that the first word of a script's command line names, and the rest of it.

    With --help and no task the flags are those of classification.  `InputError` for any other word.
    """
    task, *flags = argv or [""]
    if "--help" in argv:
        task, flags = task if task in TASKS else "classification", ["--help"]
    if task not in TASKS:
        raise InputError(f"{script}: give it {{{','.join(TASKS)}}} FLAGS, not {task!r}")
    return *TASKS[task], flags
