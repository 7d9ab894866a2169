"""The training loop, for any task: features -> steps -> the best model in the output directory.

A run is epochs of optimiser steps (plan.py).  One step is

    learning rate of the schedule  ->  gradients of its batches (step.py)  ->  optimiser

Every --logging-steps steps the loop writes a line of the log.  Every --eval-steps steps (default:
after each epoch) it evaluates the model and saves it if it is the best so far (evaluation.py).
Every --save-steps steps (default: never), and when the run is stopped, it saves the state
(state.py), from which `--resume` continues with bit-identical results.  The job around the loop,
from reading the data to the scores of the best model, is in run.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from minift.models.base import PretrainedModel
from minift.nn.kernels import sparse_embedding_gradients
from minift.tasks.base import Feature, Task
from minift.terminal import ProgressBar, print_line
from minift.training.averaging import WeightAverages
from minift.training.checkpoint import load_state, save_state
from minift.training.evaluation import (
    Split,
    evaluate,
    save_if_best,
    save_model,
    scores_by,
)
from minift.training.freezing import (
    freeze_lower_layers,
    lowest_trainable_depth,
    pretrained_parameters,
)
from minift.training.log import Log
from minift.training.optim import (
    L2SP,
    describe_groups,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)
from minift.training.options import TrainOptions
from minift.training.plan import Plan
from minift.training.progress import numbers, one_line
from minift.training.signals import Stopped, StopRequest, stopped_at
from minift.training.state import Throughput, TrainerState
from minift.training.step import GradientComputer


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
    options: without None for the task to decide (training/defaults.py).
    stop: when it is requested, the loop finishes the step, saves the state and raises `Stopped`.
    """
    plan = Plan([feature.length for feature in features], options)
    pretrained = pretrained_parameters(model, options)
    groups = parameter_groups(
        *(model, options.weight_decay, options.layerwise_lr_decay, options.head_lr_multiplier),
        *(options.l2_sp, pretrained),
    )
    if len({group["factor"] for group in groups}) > 1:
        print_line(describe_groups(groups, options.learning_rate))
    optimizer = make_optimizer(options.optimizer, groups)
    sparse_embedding_gradients(model, optimizer)
    l2_sp = L2SP(optimizer)
    averages = WeightAverages(model, options, plan.total_steps, pretrained)
    state = TrainerState()
    if options.resume:
        state = load_state(folder, model, optimizer, averages.mean) or state
    plan.continue_from(state)
    state.count_scores_of(scores_by(task, scored, options))
    if options.resume:
        print_line(f"resuming at step {state.step} of {plan.total_steps}")
    log = Log(folder, keep_lines=state.log_lines)
    gradients = GradientComputer(task, model, features, options, state)
    norm = torch.tensor(state.grad_norm)
    # Sum of losses and their count since the last logged step; on the device, to avoid waiting.
    totals = torch.tensor(
        [state.loss_sum, state.loss_count], dtype=torch.float64, device=model.device
    )  # (2,)

    def evaluate_and_save(label: str, row: Mapping[str, float]) -> None:
        """Print and log the scores of the model, and save it if it is the best so far."""
        with averages.applied(state):
            scores = evaluate(task, model, scored, options)
            log.write({**row, **{name: numbers(score) for name, score in scores.items()}})
            for name, score in scores.items():
                print_line(f"{label}, step {state.step}  {name}  {one_line(score)}")
            if "dev" in scores:
                save_if_best(task, model, folder, options, state, scores["dev"])

    if "dev" in scored and state.step == 0 and task.has_trained(model):
        evaluate_and_save("before training", {"step": 0, "epoch": 0.0})
    bar = ProgressBar("train", plan.total_steps, state.step)
    for step in bar.over(plan.steps(state)):
        if state.out_of_patience(options.early_stopping_patience):
            break
        label = f"epoch {step.epoch + 1}/{plan.epochs}"
        if options.gradual_unfreezing and step.opens_epoch:
            freeze_lower_layers(model, lowest_trainable_depth(model, step.epoch, options))
        started = time.perf_counter()
        model.train()
        learning_rate = plan.learning_rate(state.step)
        set_learning_rate(optimizer, learning_rate)
        result = gradients.step(step.batches, state.step + 1)
        if result is not None:  # None: the step is skipped
            losses, norm = result
            totals += losses
            optimizer.step()
            optimizer.zero_grad()
            l2_sp.step()
        plan.advance(state, step)
        averages.update(state)
        state.throughput.seconds += time.perf_counter() - started

        epochs_done = step.epoch + (step.number + 1) / plan.steps_per_epoch
        row = {"step": state.step, "epoch": round(epochs_done, 4)}
        is_last = state.step == plan.total_steps
        if (state.step % options.logging_steps == 0 or is_last) and totals[1]:
            mean = (totals[0] / totals[1]).item()
            values = {"loss": mean, "learning_rate": learning_rate, "grad_norm": norm.item()}
            log.write({**row, **values})
            bar.note(f"{label}, loss {mean:.4f}")
            totals.zero_()
        every = options.eval_steps  # 0: after each epoch
        is_due = state.step % every == 0 if every else step.ends_epoch
        if scored and (is_due or is_last):
            evaluate_and_save(label, row)
        stop_now = stop.requested
        if stop_now or (options.save_steps and state.step % options.save_steps == 0):
            state.loss_sum, state.loss_count = totals.tolist()
            state.log_lines, state.grad_norm = log.num_lines, norm.item()
            save_state(folder, model, optimizer, state, averages.mean)
        if stop_now:
            raise Stopped(stop_now, stopped_at(state.step, plan.total_steps, folder))
    if "dev" not in scored:
        with averages.applied(state):
            save_model(task, model, folder, options)
    return state.throughput
