"""Quality of both sides after training on the same batches; and the cost of a head-only run."""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.peers import COLUMNS, PEERS, PeerStep
from minift import hub
from minift.data.batching import training_batches
from minift.device import pick_device
from minift.reports.tables import markdown_table, mean_and_spread
from minift.tasks.registry import TASKS
from minift.terminal import print_line
from minift.training.run import run
from minift.training.schedules import SCHEDULES


def train_peer(task_name, task_options, options):
    """Train the peer in an ordinary loop on minift's batches; its best epoch's dev scores."""
    torch.manual_seed(options.seed)
    task, _, splits = TASKS[task_name].from_options(task_options)
    train, dev = (task.featurize(splits[name], name == "train") for name in ("train", "dev"))
    model = PEERS[task_name](task, hub.find_checkpoint(task.options.model))
    peer = PeerStep(task, model.to(pick_device(options.device)), options)
    lengths = [feature.length for feature in train]
    by_length = options.group_by_length
    epochs = [
        training_batches(lengths, options.batch_size, options.seed, epoch, by_length)
        for epoch in range(options.epochs)
    ]
    total = sum(map(len, epochs))
    step, scores, metric = 0, [], task.metric_named(options.metric_for_best_model)
    for batches in epochs:
        for indices in batches:
            warmup = round(total * options.warmup_ratio)
            peer.step(
                [train[i] for i in indices],
                options.learning_rate * SCHEDULES[options.lr_scheduler_type](step, total, warmup),
            )
            step += 1
        predictions = task.predict(peer.model, dev, options.batch_size)
        scores.append(task.score(predictions, splits["dev"]))
        value = scores[-1][metric.name]
        print_line(f"transformers, seed {options.seed}: {metric.name} {value:.4f}")
    return max(scores, key=lambda score: metric.sign * score[metric.name])


def quality(task_name, task_options, options, repeat):
    """Train both sides with every seed; print the dev scores of their best epochs."""
    rows, columns = {"minift": [], "transformers": []}, COLUMNS[task_name]
    for seed in range(options.seed, options.seed + repeat.seeds):
        seeded = replace(options, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            ours = run(TASKS[task_name], task_options, replace(seeded, output_dir=Path(folder)))
        rows["minift"].append(ours["dev"])
        rows["transformers"].append(train_peer(task_name, task_options, seeded))
        print_line({name: [run[columns[0]] for run in runs] for name, runs in rows.items()})
    table = [
        {"library": name, **{c: mean_and_spread([run[c] for run in runs]) for c in columns}}
        for name, runs in rows.items()
    ]
    print_line("\n" + markdown_table(table))


def head(task_name, task_options, options, repeat, rounds=3):
    """Time whole head-only runs and evaluation passes over their training set, in turn.

    options: with --freeze-encoder.
    """
    ratios = []
    for i in range(rounds):
        began = time.perf_counter()
        task, model, splits = TASKS[task_name].from_options(task_options)
        task.predict(model, task.featurize(splits["train"]), options.batch_size)
        passed = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            run(TASKS[task_name], task_options, replace(options, output_dir=Path(folder)))
            ran = time.perf_counter() - began
        ratios.append(ran / passed)
        print_line(f"\nround {i + 1}: evaluation pass {passed:.1f} s, head-only run {ran:.1f} s\n")
    print_line(f"a head-only run takes {statistics.median(ratios):.2f} times one evaluation pass")
