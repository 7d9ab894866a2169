"""The job of a training script: read, train, evaluate the best model, write the output directory.

    data, model  ->  features  ->  loop.train  ->  the best model's predictions and scores

loop.py holds the training loop, run_dir.py the rules about the output directory.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from minift.device import autocast, pick_device
from minift.errors import UserError, location
from minift.files import write_json, write_jsonl
from minift.models.base import PretrainedModel
from minift.tasks.base import Feature, Task
from minift.terminal import print_line
from minift.training.checkpoint import read_state, remove_state
from minift.training.cli import as_dict
from minift.training.defaults import with_defaults
from minift.training.freezing import prepare_parameters
from minift.training.log import environment, peak_memory_mb
from minift.training.loop import train
from minift.training.memory import compile_layers, enable_gradient_checkpointing
from minift.training.options import TrainOptions
from minift.training.plan import Plan
from minift.training.progress import describe_model, describe_options, one_line
from minift.training.resume import check_same_options, check_same_start, digests
from minift.training.run_dir import METRICS, run_lock, started, write_options
from minift.training.signals import StopRequest

TRAIN_SAMPLE = "train sample"  # the split of training records that evaluations score


def run(task_class: type[Task], task_options: Any, options: TrainOptions) -> dict[str, Any]:
    """Do the whole job; returns the contents of metrics.json.

    Bad input raises `UserError` before a file is changed in the output directory.
    """
    task_class.metric_named(options.metric_for_best_model)  # a wrong name is an error at once
    with run_lock(task_class.name, options, task_options) as folder:
        return run_in(folder, task_class, task_options, options)


def run_in(
    folder: Path, task_class: type[Task], task_options: Any, options: TrainOptions
) -> dict[str, Any]:
    """Do the whole job in a folder that is this run's; returns the contents of metrics.json."""
    began = time.perf_counter()
    device = pick_device(options.device)
    torch.manual_seed(options.seed)
    task, model, splits = task_class.from_options(task_options)
    options.check_evaluated(splits)
    options, reasons = with_defaults(task_class, task_options, options, len(splits["train"]))
    resolved = {**as_dict(task_options, options), "output_dir": str(folder)}
    if options.resume:
        other = "start again with --overwrite"
        if not options.accept_changes:
            other = "accept the change with --accept-changes"
        remedy = f"resume it with the same options, or {other}"
        check_same_options(folder, resolved, remedy, options.accept_changes)
    model.to(device)
    initial_digests = digests(splits, model)
    if options.resume:
        check_same_start(folder, initial_digests, options)

    read = splits  # without the sample, whose records are those of the training data
    if options.train_eval_samples:
        count = min(options.train_eval_samples, len(splits["train"]))
        chosen = random.Random(options.seed).sample(range(len(splits["train"])), count)
        splits = {**splits, TRAIN_SAMPLE: [splits["train"][i] for i in sorted(chosen)]}
    features = {s: task.featurize(records, s == "train") for s, records in splits.items()}
    plan = Plan([feature.length for feature in features["train"]], options)
    if options.resume and (state := read_state(folder)) is not None:
        plan.continue_from(state)  # without a step left an error, before the folder is changed
    for reason in reasons:
        print_line(f"defaults  {reason}")
    print_line(describe_options(resolved, type(task_options), TrainOptions))
    print_line("records   " + ", ".join(f"{split} {len(r)}" for split, r in splits.items()))
    print_line(f"steps     {plan.total_steps} in {plan.epochs} epochs")
    print_line(task.display.describe(splits["train"], features["train"]))
    for warning in task.data_checks(read, features):
        print_line(f"warning: {warning}")
    reinitialised = prepare_parameters(model, options)
    if reinitialised:
        print_line(f"re-initialised  {', '.join(reinitialised)}")
    if options.freeze_encoder:
        features = {
            split: task.precompute_encoder_outputs(model, part, options.batch_size)
            for split, part in features.items()
        }
    print_line(describe_model(model))
    if options.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    if options.compile:
        compile_layers(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if "dev" in splits:
        check_evaluation(task, model, features["dev"], splits["dev"], options)

    scored = {
        name: (features[split], splits[split])
        for name, split in (("dev", "dev"), ("train", TRAIN_SAMPLE))
        if split in splits
    }
    resolved_and_inputs = {**resolved, "digests": initial_digests}
    with started(folder, options, resolved_and_inputs):
        if options.accept_changes:
            write_options(folder, resolved_and_inputs)
        with StopRequest() as stop:
            throughput = train(task, model, features["train"], scored, options, folder, stop)
        best = type(model).from_pretrained(folder).to(device)
        seconds, memory = max(throughput.seconds, 1e-9), peak_memory_mb(device)
        metrics = {
            "task": task.name,
            "options": resolved,
            **evaluate_best_model(task, best, features, splits, options, folder),
            "trained_parameters": trained,
            "train_examples_per_second": round(throughput.examples / seconds, 2),
            "train_tokens_per_second": round(throughput.real_tokens / seconds, 1),
            "padding_fraction": round(
                1 - throughput.real_tokens / max(throughput.all_tokens, 1), 4
            ),
            "peak_memory_mb": memory and round(memory, 1),
            "train_seconds": round(throughput.seconds, 2),
            "seconds": round(time.perf_counter() - began, 2),
            "environment": environment(device),
        }
        write_json(folder / METRICS, metrics)
        remove_state(folder)
    which = "best" if "dev" in splits else "last"
    print_line(f"\nthe {which} model is in {location(folder)} ({metrics['seconds']:.0f} s in all)")
    if (reason := best.unlike_transformers) is not None:
        print_line(f"transformers cannot load it: {reason}")
    if "dev" not in splits:
        where = "scored on the test data only" if "test" in splits else "not scored on any data"
        print_line(f"it was {where}; with a --dev-file, the best model is chosen and saved")
    return metrics


def evaluate_best_model(
    task: Task,
    best: PretrainedModel,
    features: Mapping[str, Sequence[Feature]],
    splits: Mapping[str, Sequence[Any]],
    options: TrainOptions,
    folder: Path,
) -> dict[str, Any]:
    """Score the best model on dev and test, and write its predictions into the folder.

    Settings that are tuned on dev, such as a null threshold, apply to test too.  "baseline" is the
    dev score of an answer that needs no model (`Task.baseline_score`), None if the task has none;
    "collapsed" says that the best model does not beat it.
    """
    results: dict[str, Any] = {}
    for split in ("dev", "test"):
        if split in splits:
            records = splits[split]
            with autocast(best.device, options.precision):
                predictions = task.predict(best, features[split], options.batch_size)
            score = task.score(predictions, records)
            if split == "dev":
                task = task.with_tuned(score)
            display = task.display
            rows = display.full_rows(predictions, records)
            write_jsonl(folder / f"predictions.{split}.jsonl", rows)
            for name, value in display.exports(predictions, records).items():
                write_json(folder / f"{name}.{split}.json", value)
            print_line(f"\n{split}  {one_line(score)}")
            print_line(display.format_report(predictions, records, score))
            results[split] = score
    if "dev" in splits:
        metric = task.metrics[0]
        value = results["dev"][metric.name]
        baseline = task.baseline_score(splits["train"], splits["dev"])
        collapsed = baseline is not None and not metric.is_better(value, than=baseline)
        results.update(baseline=baseline, collapsed=collapsed)
        if collapsed:
            print_line(
                f"\nwarning: {metric.name} {value:.4f} on dev is no better than the {baseline:.4f} "
                f"of the baseline ({task.baseline_name}); more steps (--min-steps), another "
                "learning rate (find_lr.py suggests one) or another --seed may help"
            )
    return results


def check_evaluation(
    task: Task,
    model: PretrainedModel,
    features: Sequence[Feature],
    records: Sequence[Any],
    options: TrainOptions,
) -> None:
    """Evaluate one record before training, so that an evaluation that fails does so at once.

    `UserError` for a --metric-for-best-model that these data lack, such as one of the questions
    without an answer.
    """
    first = [feature for feature in features if feature.record == 0]
    score = task.score(task.predict(model, first, options.batch_size), records[:1])
    metric = task.metric_named(options.metric_for_best_model)
    if metric.name not in score:
        names = [known.name for known in task.metrics if known.name in score]
        raise UserError(
            f"--metric-for-best-model is {metric.name!r}, which {task.name} does not compute for "
            f"these data; use one of {', '.join(names)}"
        )
