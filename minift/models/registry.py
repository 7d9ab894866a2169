"""The model classes by task and by model_type of config.json.

A new family adds an entry for each task that it can do.  Its default LoRA targets are in
adapters.py (`DEFAULT_TARGET_MODULES`).
"""

from __future__ import annotations

from pathlib import Path

from minift.errors import UserError
from minift.files import read_json
from minift.models.base import CONFIG, PretrainedModel
from minift.models.bert import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from minift.models.t5 import T5ForConditionalGeneration

# task -> model_type -> model class
FAMILIES: dict[str, dict[str, type[PretrainedModel]]] = {
    "classification": {"bert": BertForSequenceClassification},
    "ner": {"bert": BertForTokenClassification},
    "qa": {"bert": BertForQuestionAnswering},
    "summarization": {"t5": T5ForConditionalGeneration},
}


def model_class(folder: Path, task: str) -> type[PretrainedModel]:
    """The model class for a checkpoint's folder and a task; `UserError` if there is none."""
    config = read_json(folder / CONFIG)
    found = config.get("model_type") if isinstance(config, dict) else None
    families = FAMILIES[task]
    if found not in families:
        raise UserError(
            f"{folder / CONFIG}: model_type is {found!r}; minift's {task} reads "
            f"{', '.join(sorted(families))}"
        )
    return families[found]


def task_of(folder: Path) -> str:
    """The task of a fine-tuned checkpoint, from `architectures` in its config.json.

    Raises `UserError` if none of those classes has a head for a task.
    """
    config = read_json(folder / CONFIG)
    architectures = (config.get("architectures") if isinstance(config, dict) else None) or []
    for task, families in FAMILIES.items():
        if any(model.__name__ in architectures for model in families.values()):
            return task
    raise UserError(
        f"{folder / CONFIG}: architectures is {architectures!r}, which has no head for a task "
        "minift knows; give the output directory of a training script"
    )
