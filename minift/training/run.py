"""The training loop, for any task: features -> steps -> the best model -> a report.

`run` is the whole job that a script wires up; `train` is the loop itself.  One step:

    the gradients of its batches (step.py);  the optimiser at the rate of the schedule
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from minift.data.batching import chunks, progress, training_batches
from minift.errors import InputError, visible
from minift.files import write_json, write_jsonl
from minift.models.base import PretrainedModel
from minift.nn.lora import save_adapter
from minift.tasks.base import Feature, Task
from minift.training.averaging import Averages
from minift.training.checkpoint import Progress, load_state, remove_state, save_state
from minift.training.freezing import choose_what_learns, learn_above, lowest_that_learns
from minift.training.log import Log, environment, numbers, one_line, peak_memory_mb
from minift.training.memory import compile_layers, recompute_layers
from minift.training.optim import (
    describe_groups,
    keep_rows_apart,
    new_optimizer,
    parameter_groups,
    pull,
    set_rate,
)
from minift.training.options import TrainOptions
from minift.training.run_dir import (
    METRICS,
    check_same_options,
    check_same_start,
    claimed,
    digests,
    output_folder,
    resolve,
)
from minift.training.schedules import SCHEDULES
from minift.training.signals import Stop, Stopped, stopped_at
from minift.training.step import Gradients, Work, autocast

ADAPTER = "adapter"
SAMPLE = "train sample"  # the split of the training records that are scored


def run(task_class: type[Task], task_options: Any, options: TrainOptions) -> dict[str, Any]:
    """Read, train, choose the best, test, write the output directory; returns metrics.json.

    Everything that can be wrong with the input is found before the output directory is touched.
    """
    started = time.perf_counter()
    folder = output_folder(options, task_class.name)
    options = options.with_rate(task_options.usual_rate)
    device = pick_device(options.device)
    resolved = {**resolve(task_options, options), "output_dir": str(folder)}
    if options.resume and not options.accept_changes:
        check_same_options(folder, resolved, "resume it with the same options")
    torch.manual_seed(options.seed)
    task, model, splits = task_class.start(task_options)
    model.to(device)
    begun_with = digests(splits, model)
    if options.resume and not options.accept_changes:
        check_same_start(folder, begun_with)

    if options.train_sample:
        count = min(options.train_sample, len(splits["train"]))
        chosen = random.Random(options.seed).sample(range(len(splits["train"])), count)
        splits = {**splits, SAMPLE: [splits["train"][i] for i in sorted(chosen)]}
    features = {s: task.featurize(records, s == "train") for s, records in splits.items()}
    print("options   " + ", ".join(f"{k}={v}" for k, v in resolved.items()))
    print("records   " + ", ".join(f"{split} {len(r)}" for split, r in splits.items()))
    print(visible(task.describe(splits["train"], features["train"])))
    for doubt in task.doubts(splits, features):
        print(visible(f"warning: {doubt}"))
    anew = choose_what_learns(model, options)
    if anew:
        print(f"anew      {', '.join(anew)}")
    if options.freeze_encoder:
        features = {
            split: task.freeze(model, part, options.batch_size) for split, part in features.items()
        }
    print(describe_model(model), flush=True)
    if options.recompute:
        recompute_layers(model)
    if options.compile:
        compile_layers(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if "dev" in splits:
        verify(task, model, features["dev"], splits["dev"], options)

    scored = {
        name: (features[split], splits[split])
        for name, split in (("dev", "dev"), ("train", SAMPLE))
        if split in splits
    }
    with claimed(folder, options, {**resolved, "digests": begun_with}):
        with Stop() as stop:
            work = train(task, model, features["train"], scored, options, folder, stop)
        best = type(model).from_pretrained(folder).to(device)
        metrics = {
            "task": task.name,
            "options": resolved,
            **judge(task, best, features, splits, options, folder),
            "trained_parameters": trained,
            "train_examples_per_second": round(work.examples / max(work.seconds, 1e-9), 2),
            "train_tokens_per_second": round(work.real_tokens / max(work.seconds, 1e-9), 1),
            "padding_fraction": round(1 - work.real_tokens / max(work.all_tokens, 1), 4),
            "peak_memory_mb": round(peak_memory_mb(device), 1),
            "train_seconds": round(work.seconds, 2),
            "seconds": round(time.perf_counter() - started, 2),
            "environment": environment(device),
        }
        write_json(folder / METRICS, metrics)
        remove_state(folder)
    print(f"\nthe best model is in {folder} ({metrics['seconds']:.0f} s in all)")
    return metrics


def judge(
    task: Task,
    best: PretrainedModel,
    features: Mapping[str, Sequence[Feature]],
    splits: Mapping[str, Sequence[Any]],
    options: TrainOptions,
    folder: Path,
) -> dict[str, Any]:
    """What the best model says of dev and test: its predictions in the folder, the scores returned.

    What dev decides beside the weights, such as a threshold, is what test is judged with.
    """
    found: dict[str, Any] = {}
    for split in ("dev", "test"):
        if split in splits:
            records = splits[split]
            with autocast(best.device, options.precision):
                predictions = task.predict(best, features[split], options.batch_size)
            score = task.score(predictions, records)
            if split == "dev":
                task = task.tuned(score)
            write_jsonl(folder / f"predictions.{split}.jsonl", task.rows(predictions, records))
            for name, value in task.exports(predictions, records).items():
                write_json(folder / f"{name}.{split}.json", value)
            print(f"\n{split}  {one_line(score)}")
            print(visible(task.explain(predictions, records, score)))
            found[split] = score
    if "dev" in splits:
        value = found["dev"][task.metric]
        trivial = task.trivial_score(splits["train"], splits["dev"])
        found.update(trivial=trivial, collapsed=value <= trivial)
        if found["collapsed"]:
            print(
                f"\nwarning: {task.metric} {value:.4f} on dev is no better than {trivial:.4f}, "
                f"what {task.trivial_answer} gives; a lower --learning-rate, more steps or another "
                "--seed may help"
            )
    return found


def train(
    task: Task,
    model: PretrainedModel,
    features: Sequence[Feature],
    scored: Mapping[str, tuple[Sequence[Feature], Sequence[Any]]],
    options: TrainOptions,
    folder: Path,
    stop: Stop,
) -> Work:
    """Train `model` in place; the best model by the dev score, or the last one, is in `folder`.

    features: to train on.
    scored: "dev" and what else each evaluation scores -> features and records.
    stop: when it is asked for, the step is finished and the state saved; then `Stopped` is raised.
    The options must say the learning rate.
    """
    lengths = [feature.length for feature in features]

    def steps_of(epoch: int) -> list[list[list[int]]]:
        by_length = options.batching == "length"
        batches = training_batches(lengths, options.batch_size, options.seed, epoch, by_length)
        return chunks(batches, options.accumulation)

    epochs = max(options.epochs, math.ceil(options.min_steps / len(steps_of(0))))
    total = len(steps_of(0)) * epochs
    warmup = math.ceil(total * options.warmup_ratio)
    groups = parameter_groups(model, options.weight_decay, options.layer_decay, options.head_rate)
    if len({group["factor"] for group in groups}) > 1:
        print(describe_groups(groups, options.learning_rate), flush=True)
    optimizer, schedule = new_optimizer(options.optimizer, groups), SCHEDULES[options.schedule]
    keep_rows_apart(model, optimizer)
    kept = groups if options.l2_start else []
    starts = [[parameter.detach().clone() for parameter in group["params"]] for group in kept]
    averages = Averages(model, options, total)
    at = Progress()
    if options.resume:
        at = load_state(folder, model, optimizer, averages.mean) or at
        print(f"resuming at step {at.step} of {total}", flush=True)
    log = Log(folder, keep=at.log_lines)
    work = Work()
    gradients = Gradients(task, model, features, options, work)
    gradients.skipped, norm = at.skipped, torch.zeros(())
    totals = torch.tensor([at.loss_sum, at.loss_count], dtype=torch.float64, device=model.device)

    for epoch in range(at.epoch, epochs):
        steps = steps_of(epoch)
        if options.unfreeze_epochs:
            learn_above(model, lowest_that_learns(model, epoch, options))
        todo = range(at.batch, len(steps))
        label = f"epoch {epoch + 1}/{epochs}"
        for i in progress(todo, label, len(steps), at.batch):
            if at.stopped:
                break
            clock = time.perf_counter()
            model.train()
            rate = options.learning_rate * schedule(at.step, total, warmup)
            set_rate(optimizer, rate)
            found = gradients.of(steps[i], at.step + 1)
            if found is not None:
                totals += found[0]
                norm = found[1]
                optimizer.step()
                optimizer.zero_grad()
                for group, start in zip(optimizer.param_groups, starts, strict=False):
                    pull(group["params"], start, group["lr"] * options.l2_start)
            at.step += 1
            averages.update(at.step)
            at.epoch, at.batch = (epoch, i + 1) if i + 1 < len(steps) else (epoch + 1, 0)
            work.seconds += time.perf_counter() - clock

            row = {"step": at.step, "epoch": round(epoch + (i + 1) / len(steps), 4)}
            if (at.step % options.log_every == 0 or at.step == total) and totals[1]:
                mean = (totals[0] / totals[1]).item()
                log.write({**row, "loss": mean, "learning_rate": rate, "grad_norm": norm.item()})
                totals.zero_()
            every = options.eval_every
            due = at.step % every == 0 if every else at.batch == 0
            if scored and (due or at.step == total):
                with averages.in_place(at.step):
                    scores = evaluate(task, model, scored, options)
                    log.write({**row, **{name: numbers(score) for name, score in scores.items()}})
                    for name, score in scores.items():
                        print(f"{label}, step {at.step}  {name}  {one_line(score)}", flush=True)
                    if "dev" in scores:
                        keep_best(task, model, folder, options, at, scores["dev"])
            asked = stop.asked if at.step < total else None
            if asked or (options.save_every and at.step % options.save_every == 0):
                at.loss_sum, at.loss_count = totals.tolist()
                at.log_lines, at.skipped = log.lines, gradients.skipped
                save_state(folder, model, optimizer, at, averages.mean)
            if asked:
                raise Stopped(asked, stopped_at(at.step, total, folder))
    if "dev" not in scored:
        with averages.in_place(at.step):
            save_model(task, model, folder, options)
    return work


def evaluate(
    task: Task,
    model: PretrainedModel,
    scored: Mapping[str, tuple[Sequence[Feature], Sequence[Any]]],
    options: TrainOptions,
) -> dict[str, dict[str, Any]]:
    """The score of each part."""
    scores = {}
    for name, (features, records) in scored.items():
        with autocast(model.device, options.precision):
            predictions = task.predict(model, features, options.batch_size)
        scores[name] = task.score(predictions, records)
    return scores


def save_model(task: Task, model: PretrainedModel, folder: Path, options: TrainOptions) -> None:
    """The model, and beside it what LoRA learned alone."""
    task.save(model, folder)
    if options.lora_rank:
        save_adapter(model, folder / ADAPTER)


def keep_best(
    task: Task,
    model: PretrainedModel,
    folder: Path,
    options: TrainOptions,
    at: Progress,
    score: dict[str, Any],
) -> None:
    """Save the model if it is the best so far; say when it is time to stop."""
    name = options.best_metric or task.metric
    # A loss is better when it is less; all other metrics when they are more.
    value = -score[name] if name == "loss" else score[name]
    if at.best_score is None or value > at.best_score:
        at.best_score, at.best_step, at.evaluations_since_best = value, at.step, 0
        save_model(task.tuned(score), model, folder, options)
        return
    at.evaluations_since_best += 1
    if options.early_stopping and at.evaluations_since_best >= options.early_stopping:
        at.stopped = True
        print(f"stopping: no better {name} since step {at.best_step}")


def verify(
    task: Task,
    model: PretrainedModel,
    features: Sequence[Feature],
    records: Sequence[Any],
    options: TrainOptions,
) -> None:
    """Evaluate on one record before training, so that what cannot be evaluated shows at once."""
    first = [feature for feature in features if feature.record == 0]
    names = numbers(task.score(task.predict(model, first, options.batch_size), records[:1]))
    if options.best_metric is not None and options.best_metric not in names:
        raise InputError(
            f"--best-metric is {options.best_metric!r}, which {task.name} does not have; "
            f"use one of {', '.join(names)}"
        )


def pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise InputError(
            f"--device is {name!r}, but torch sees {torch.cuda.device_count()} GPUs here; "
            "use --device cpu"
        )
    return device


def describe_model(model: PretrainedModel) -> str:
    """Parameter counts and what loading found: nothing is new or left aside in silence."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines = [f"model     {type(model).__name__}, {total:,} parameters, {trained:,} of them trained"]
    if model.report is not None:
        lines.append(f"weights   {model.report.loaded} tensors read")
        if model.report.new:
            lines.append(f"  new     {', '.join(model.report.new)}")
        lines += [f"  aside   {name}: {why}" for name, why in model.report.ignored.items()]
    return "\n".join(lines)
