"""The tasks by name.  A new task adds one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minift.errors import UserError
from minift.files import read_json
from minift.models.base import CONFIG
from minift.models.registry import FAMILIES
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


def task_of(folder: Path) -> str:
    """The task of a fine-tuned checkpoint, from `architectures` in its config.json.

    Raises `UserError` if none of those classes has a head for a task.
    """
    config = read_json(folder / CONFIG)
    architectures = (config.get("architectures") if isinstance(config, dict) else None) or []
    models = [m for models in FAMILIES.values() for m in models if m.__name__ in architectures]
    for name, (task, _) in TASKS.items():
        if any(issubclass(model, task.model_kind) for model in models):
            return name
    raise UserError(
        f"{folder / CONFIG}: architectures is {architectures!r}, which has no head for a task "
        "minift knows; give the output directory of a training script"
    )
