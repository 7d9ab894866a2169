"""The training loop, for any task: features -> steps -> the best model in the output directory.

A run is epochs of optimiser steps.  One step is

    learning rate of the schedule  ->  gradients of its batches (step.py)  ->  optimiser

Every --logging-steps steps the loop writes a line of the log.  Every --eval-steps steps (default:
after each epoch) it evaluates the model and saves it if it is the best so far.  Every --save-steps
steps (default: never), and when the run is stopped, it saves the state, from which `--resume`
continues with bit-identical results.  The job around the loop, from reading the data to the scores
of the best model, is in run.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from minift.data.batching import chunks, progress_bar, training_batches
from minift.device import autocast
from minift.models.adapters import save_adapter
from minift.models.base import PretrainedModel
from minift.nn.kernels import sparse_embedding_gradients
from minift.tasks.base import Feature, Task
from minift.training.averaging import WeightAverages
from minift.training.checkpoint import TrainerState, load_state, save_state
from minift.training.freezing import freeze_lower_layers, lowest_trainable_depth
from minift.training.log import Log
from minift.training.optim import (
    describe_groups,
    l2_sp_step,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)
from minift.training.options import TrainOptions
from minift.training.progress import numbers, one_line
from minift.training.schedules import SCHEDULES
from minift.training.signals import Stopped, StopRequest, stopped_at
from minift.training.step import GradientComputer, Throughput

ADAPTER = "adapter"  # folder of the LoRA adapter in the output directory
Split = tuple[Sequence[Feature], Sequence[Any]]  # features and their records


def train(
    task: Task,
    model: PretrainedModel,
    features: Sequence[Feature],
    scored: Mapping[str, Split],
    options: TrainOptions,
    folder: Path,
    stop: StopRequest,
) -> Throughput:
    """Train `model` in place; save the best model in `folder`, or the last without a dev split.

    features: the training data.
    scored: the splits that each evaluation scores, by name; the score of "dev" chooses the best.
    options: with a learning rate (`TrainOptions.with_learning_rate`).
    stop: when it is requested, the loop finishes the step, saves the state and raises `Stopped`.
    """
    lengths = [feature.length for feature in features]

    def steps_of(epoch: int) -> list[list[list[int]]]:
        """The epoch's steps, each a list of batches, each a list of feature indices."""
        batches = training_batches(
            lengths, options.batch_size, options.seed, epoch, options.group_by_length
        )
        return chunks(batches, options.gradient_accumulation_steps)

    epochs = max(options.epochs, math.ceil(options.min_steps / len(steps_of(0))))
    total_steps = len(steps_of(0)) * epochs
    warmup_steps = math.ceil(total_steps * options.warmup_ratio)
    schedule = SCHEDULES[options.lr_scheduler_type]
    groups = parameter_groups(
        model, options.weight_decay, options.layerwise_lr_decay, options.head_lr_multiplier
    )
    if len({group["factor"] for group in groups}) > 1:
        print(describe_groups(groups, options.learning_rate), flush=True)
    optimizer = make_optimizer(options.optimizer, groups)
    sparse_embedding_gradients(model, optimizer)
    pretrained = [  # initial values for L2-SP, group by group; empty without it
        [parameter.detach().clone() for parameter in group["params"]]
        for group in (groups if options.l2_sp else [])
    ]
    averages = WeightAverages(model, options, total_steps)
    state = TrainerState()
    if options.resume:
        state = load_state(folder, model, optimizer, averages.mean) or state
        print(f"resuming at step {state.step} of {total_steps}", flush=True)
    log = Log(folder, keep_lines=state.log_lines)
    throughput = Throughput()
    gradients = GradientComputer(task, model, features, options, throughput)
    gradients.skipped, norm = state.skipped, torch.zeros(())
    # Sum of losses and their count since the last logged step; on the device, to avoid waiting.
    sum_and_count = (state.loss_sum, state.loss_count)
    totals = torch.tensor(sum_and_count, dtype=torch.float64, device=model.device)  # (2,)

    for epoch in range(state.epoch, epochs):
        steps = steps_of(epoch)
        if options.gradual_unfreezing:
            freeze_lower_layers(model, lowest_trainable_depth(model, epoch, options))
        label = f"epoch {epoch + 1}/{epochs}"
        for i in progress_bar(range(state.batch, len(steps)), label, len(steps), state.batch):
            if state.stopped:
                break
            started = time.perf_counter()
            model.train()
            factor = schedule(state.step, total_steps, warmup_steps)
            learning_rate = options.learning_rate * factor
            set_learning_rate(optimizer, learning_rate)
            result = gradients.step(steps[i], state.step + 1)
            if result is not None:  # None: the step is skipped
                losses, norm = result
                totals += losses
                optimizer.step()
                optimizer.zero_grad()
                for group, weights in zip(optimizer.param_groups, pretrained, strict=False):
                    l2_sp_step(group["params"], weights, group["lr"] * options.l2_sp)
            state.step += 1
            averages.update(state.step)
            state.epoch, state.batch = (epoch, i + 1) if i + 1 < len(steps) else (epoch + 1, 0)
            throughput.seconds += time.perf_counter() - started

            row = {"step": state.step, "epoch": round(epoch + (i + 1) / len(steps), 4)}
            is_last = state.step == total_steps
            if (state.step % options.logging_steps == 0 or is_last) and totals[1]:
                mean = (totals[0] / totals[1]).item()
                values = {"loss": mean, "learning_rate": learning_rate, "grad_norm": norm.item()}
                log.write({**row, **values})
                totals.zero_()
            every = options.eval_steps  # 0: after each epoch, when state.batch is 0 again
            is_due = state.step % every == 0 if every else state.batch == 0
            if scored and (is_due or is_last):
                with averages.applied(state.step):
                    scores = evaluate(task, model, scored, options)
                    log.write({**row, **{name: numbers(score) for name, score in scores.items()}})
                    for name, score in scores.items():
                        print(f"{label}, step {state.step}  {name}  {one_line(score)}", flush=True)
                    if "dev" in scores:
                        save_if_best(task, model, folder, options, state, scores["dev"])
            stop_now = stop.requested if not is_last else None
            if stop_now or (options.save_steps and state.step % options.save_steps == 0):
                state.loss_sum, state.loss_count = totals.tolist()
                state.log_lines, state.skipped = log.num_lines, gradients.skipped
                save_state(folder, model, optimizer, state, averages.mean)
            if stop_now:
                raise Stopped(stop_now, stopped_at(state.step, total_steps, folder))
    if "dev" not in scored:
        with averages.applied(state.step):
            save_model(task, model, folder, options)
    return throughput


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
    patience = options.early_stopping_patience
    if patience and state.evaluations_since_best >= patience:
        state.stopped = True
        print(f"early stopping: no better {metric.name} since step {state.best_step}")


def save_model(task: Task, model: PretrainedModel, folder: Path, options: TrainOptions) -> None:
    """Save the model with everything that prediction needs, and the LoRA adapter beside it."""
    task.save(model, folder)
    if options.lora_rank:
        save_adapter(model, folder / ADAPTER, *task.adapter_base(model))
