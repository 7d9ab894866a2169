"""Comparing full fine-tuning with training only the head, for each pooling.

The outputs of a frozen encoder are computed once, so training the head takes little time, but the
encoder does not adapt to the task (Peters et al. 2019, "To tune or not to tune? Adapting pretrained
representations to diverse tasks").
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minift import hub
from minift.experiments.comparison import CompareOptions, check_dev_file, compare
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.terminal import print_line
from minift.training.options import LORA, ONLY_WITH_ENCODER, PARTIAL, WHOLE, TrainOptions

# Options that the comparison varies; its script has no flags for them.
WITHOUT = {
    **dict.fromkeys(
        (*WHOLE, *PARTIAL, *LORA),
        "the comparison trains the whole model or only its head; leave it out",
    ),
    "pooling": "the comparison runs every pooling; leave it out",
}


def compare_freezing(
    task_options: ClassificationOptions, options: TrainOptions, repeat: CompareOptions
) -> list[dict[str, Any]]:
    """Train the head only, and the whole model, with each pooling that the family has.

    A pooler that the checkpoint lacks is new, so there is no run that trains only the head on it.
    Returns a table row for each.  Writes the files of `compare`.  Raises `UserError` if there is no
    dev data.
    """
    check_dev_file(task_options)
    folder = hub.find_checkpoint(task_options.model)
    model_class = ClassificationTask.model_class(folder)
    poolings = model_class.config_class.poolings
    without_pooler = "pooler" in poolings and not model_class.has_pooler(folder)
    if without_pooler:
        print_line(f"{task_options.model} has no pooler: 'head only pooler' is left out")
    return compare(
        ClassificationTask,
        {
            f"{'head only' if frozen else 'full'} {pooling}": (
                replace(task_options, pooling=pooling),
                replace(options, freeze_encoder=frozen, **(ONLY_WITH_ENCODER if frozen else {})),
            )
            for pooling in poolings
            for frozen in (True, False)
            if not (frozen and pooling == "pooler" and without_pooler)
        },
        seeds=repeat.seeds,
        output_dir=options.output_dir,
        experiment_name="compare-freezing",
        columns=["accuracy", "matthews_correlation"],
        title="Full fine-tuning and head only",
    )
