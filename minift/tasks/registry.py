"""The tasks by name.  A new task adds one entry.

A checkpoint that minift did not save belongs to the first task whose kind of model it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minift.errors import UserError
from minift.models.config import CONFIG, read_config
from minift.models.registry import FAMILIES
from minift.options import shorten
from minift.tasks.base import Task
from minift.tasks.classification import ClassificationTask
from minift.tasks.loading import saved_settings
from minift.tasks.ner import NerTask
from minift.tasks.qa import QaTask
from minift.tasks.summarization import SummarizationTask

TASKS: dict[str, type[Task]] = {
    "classification": ClassificationTask,
    "ner": NerTask,
    "qa": QaTask,
    "summarization": SummarizationTask,
}


def task_of(folder: str | Path) -> type[Task]:
    """The task of a fine-tuned checkpoint, from config.json.

    minift saves the task there; for other checkpoints `architectures` decides.
    Raises `UserError` for an unknown task, and if none of those classes has a head for a task.
    """
    folder = Path(folder)
    path = folder / CONFIG
    config = read_config(folder)
    name = saved_settings(config).get("task")
    architectures = config.get("architectures") or []
    if name is None:
        models = [m for models in FAMILIES.values() for m in models if m.__name__ in architectures]
        kinds = ((name, task.model_kind) for name, task in TASKS.items())
        found = (name for name, kind in kinds if any(issubclass(m, kind) for m in models))
        name = next(found, None)
        if name == "classification" and (kind := _other_than_one_label(config)):
            raise UserError(
                f"{path}: the checkpoint is for {kind}, whose outputs minift does not read; give a "
                "model that chooses one of its labels"
            )
    if name is None:
        raise UserError(
            f"{path}: architectures is {shorten(architectures)}, which has no head for a task "
            "minift knows; give the output directory of a training script"
        )
    if not isinstance(name, str) or name not in TASKS:
        raise UserError(
            f"{path}: the model's task is {shorten(name)}, which is none of {', '.join(TASKS)}; "
            "give the output directory of one of their training scripts"
        )
    return TASKS[name]


def _other_than_one_label(config: Mapping[str, Any]) -> str:
    """The problem of a checkpoint that does not choose one label for each text; "" if it does."""
    problem, names = config.get("problem_type"), config.get("id2label")
    if problem in ("multi_label_classification", "regression"):
        return f"problem_type {problem}"
    if (isinstance(names, dict) and len(names) == 1) or config.get("num_labels") == 1:
        return "a single number (it has one output)"
    return ""


def task_and_flags(script: str, argv: Sequence[str]) -> tuple[type[Task], list[str]]:
    """Split a command line "TASK FLAGS" into the task and the flags.

    Help without a task shows the flags of classification.  `UserError` for an unknown task.
    """
    task, *flags = argv or [""]
    for help_flag in ("--help", "--help-all"):
        if help_flag in argv:
            task, flags = task if task in TASKS else "classification", [help_flag]
    if task not in TASKS:
        wrong = f"the task is {task!r}" if argv else "the task is missing"
        raise UserError(f"{script}: {wrong}; write {script} {{{','.join(TASKS)}}} FLAGS")
    return TASKS[task], flags
