"""Training options that the user did not give: taken from the task, the model and the data.

A default never contradicts an option that the user gave: options that choose the trained
parameters, such as --lora-rank, turn the default --freeze-layers off, and --epochs turns off the
recipe for few records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minift.options import flag_of
from minift.tasks.base import Task, TrainDefaults
from minift.training.cli import as_dict
from minift.training.options import TrainOptions

# Few records make few steps, after which a model has hardly left its start; more steps and averaged
# weights mend this (Mosbach et al. 2021, "On the stability of fine-tuning BERT").
FEW_RECORDS_RECIPE = {"min_steps": 300, "swa_fraction": 0.3}
# Options of the run beside which the lower layers are not frozen by default.
CHOOSES_PARAMETERS = ("freeze_encoder", "freeze_embeddings", "lora_rank", "bitfit")
# Options that fix the number of steps, beside which few records change nothing.
CHOOSES_STEPS = ("epochs", "early_stopping_patience")


def with_defaults(
    task_class: type[Task],
    task_options: Any,
    options: TrainOptions,
    num_records: int | None = None,
) -> tuple[TrainOptions, list[str]]:
    """The options with a value for each that was not given; and lines that say why, to be printed.

    num_records: of the training data; None: they are read, if the number matters.
    """
    defaults = task_class.train_defaults(task_options)
    values = {name: getattr(defaults, name) for name in vars(defaults) if name != "reason"}
    learning_rate = values.pop("learning_rate")
    if task_options.from_scratch or any(getattr(options, name) for name in CHOOSES_PARAMETERS):
        values["freeze_layers"] = 0
    unusual = {k: value for k, value in values.items() if value != getattr(TrainDefaults, k)}
    lines = [f"{defaults.reason}: {_flags(options, unusual)}"] if defaults.reason else []
    if task_class.few_records and not any(getattr(options, name) for name in CHOOSES_STEPS):
        if num_records is None:
            num_records = len(task_class.read_splits(task_options)["train"])
        if num_records < task_class.few_records:
            values.update(FEW_RECORDS_RECIPE)
            few = f"{num_records} training records are few"
            lines.append(f"{few}: {_flags(options, FEW_RECORDS_RECIPE)}; --epochs turns this off")
    given = {name: value for name in values if (value := getattr(options, name)) is not None}
    resolved = replace(options, **{**values, **given})
    usual_method = not (options.freeze_encoder or options.lora_rank or options.bitfit)
    if options.learning_rate is None and usual_method and resolved.optimizer == defaults.optimizer:
        resolved = replace(resolved, learning_rate=learning_rate)
    return resolved.with_learning_rate(task_options.default_learning_rate), lines


def _flags(options: TrainOptions, values: Mapping[str, Any]) -> str:
    """The values that the options do not give, as flags."""
    taken = {name: value for name, value in values.items() if getattr(options, name) is None}
    return " ".join(f"{flag_of(name)} {value}" for name, value in taken.items()) or "as given"


def resolve_options(task_class: type[Task], task_options: Any, options: TrainOptions) -> dict:
    """All options of a run with their defaults, as they are printed and stored."""
    return as_dict(task_options, with_defaults(task_class, task_options, options)[0])
