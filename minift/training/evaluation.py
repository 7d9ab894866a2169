"""Evaluation during training: scores, the best model so far, and early stopping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minift.device import autocast
from minift.models.adapters import save_adapter
from minift.models.base import PretrainedModel
from minift.tasks.base import Feature, Task
from minift.terminal import print_line
from minift.training.options import TrainOptions
from minift.training.resume import records_digest
from minift.training.run_dir import ADAPTER
from minift.training.state import TrainerState

Split = tuple[Sequence[Feature], Sequence[Any]]  # features and their records


def evaluate(
    task: Task, model: PretrainedModel, scored: Mapping[str, Split], options: TrainOptions
) -> dict[str, dict[str, Any]]:
    """The scores of each split, by its name."""
    scores = {}
    for name, (features, records) in scored.items():
        with autocast(model.device, options.precision):
            predictions = task.predict(model, features, options.batch_size)
        scores[name] = task.score(predictions, records)
    return scores


def scores_by(task: Task, scored: Mapping[str, Split], options: TrainOptions) -> str:
    """The metric that chooses the best model and a digest of the dev records; empty without dev.

    Scores are comparable if this is equal.
    """
    if "dev" not in scored:
        return ""
    metric = task.metric_named(options.metric_for_best_model)
    return f"{metric.name} of {records_digest(scored['dev'][1])}"


def save_if_best(
    task: Task,
    model: PretrainedModel,
    folder: Path,
    options: TrainOptions,
    state: TrainerState,
    score: dict[str, Any],
) -> None:
    """Save the model if its dev score is the best so far; else count towards early stopping."""
    metric = task.metric_named(options.metric_for_best_model)
    value = metric.sign * score[metric.name]  # more is better
    if state.best_score is None or value > state.best_score:
        state.best_score, state.best_step = value, state.step
        state.evaluations_since_best = 0
        save_model(task.with_tuned(score), model, folder, options)
        return
    state.evaluations_since_best += 1
    if state.out_of_patience(options.early_stopping_patience):
        print_line(f"early stopping: no better {metric.name} since step {state.best_step}")


def save_model(task: Task, model: PretrainedModel, folder: Path, options: TrainOptions) -> None:
    """Save the model with everything that prediction needs, and the LoRA adapter beside it."""
    task.save(model, folder)
    if options.lora_rank:
        save_adapter(model, folder / ADAPTER, *task.adapter_base(model))
