"""Quality: both sides trained on the same batches, with every seed; and a head-only run's cost."""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.peers import COLUMNS, REFERENCES, Theirs
from minift import hub
from minift.data.batching import training_batches
from minift.tasks.registry import TASKS
from minift.training.log import markdown_table, mean_and_spread
from minift.training.run import pick_device, run
from minift.training.schedules import SCHEDULES


def train_theirs(name_of_task, task_options, options):
    """The reference in an ordinary loop, on our batches: its best dev score of all epochs."""
    torch.manual_seed(options.seed)
    task, _, splits = TASKS[name_of_task][0].start(task_options)
    train, dev = (task.featurize(splits[name], name == "train") for name in ("train", "dev"))
    start = REFERENCES[name_of_task](task, hub.resolve(task.options.model))
    theirs = Theirs(task, start.to(pick_device(options.device)), options)
    lengths = [feature.length for feature in train]
    by_length = options.batching == "length"
    epochs = [
        training_batches(lengths, options.batch_size, options.seed, epoch, by_length)
        for epoch in range(options.epochs)
    ]
    total = sum(map(len, epochs))
    step, scores, name = 0, [], options.best_metric or task.metric
    for batches in epochs:
        for indices in batches:
            warmup = round(total * options.warmup_ratio)
            theirs.step(
                [train[i] for i in indices],
                options.learning_rate * SCHEDULES[options.schedule](step, total, warmup),
            )
            step += 1
        predictions = task.predict(theirs.model, dev, options.batch_size)
        scores.append(task.score(predictions, splits["dev"]))
        print(f"reference, seed {options.seed}: {name} {scores[-1][name]:.4f}", flush=True)
    return max(scores, key=lambda s: s[name])


def quality(task, task_options, options, repeat):
    """Both trained with every seed; the dev scores of their best epochs."""
    rows, columns = {"minift": [], "transformers": []}, COLUMNS[task]
    for seed in range(options.seed, options.seed + repeat.seeds):
        seeded = replace(options, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            ours = run(TASKS[task][0], task_options, replace(seeded, output_dir=Path(folder)))
        rows["minift"].append(ours["dev"])
        rows["transformers"].append(train_theirs(task, task_options, seeded))
        print({name: [run[columns[0]] for run in runs] for name, runs in rows.items()}, flush=True)
    table = [
        {"library": name, **{c: mean_and_spread([run[c] for run in runs]) for c in columns}}
        for name, runs in rows.items()
    ]
    print("\n" + markdown_table(table))


def head(task, task_options, options, repeat, rounds=3):
    """Head-only runs and evaluation passes over the training set in turn, as whole jobs."""
    ratios = []
    for i in range(rounds):
        began = time.perf_counter()
        story, model, splits = TASKS[task][0].start(task_options)
        story.predict(model, story.featurize(splits["train"]), options.batch_size)
        passed = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            frozen = replace(options, freeze_encoder=True, output_dir=Path(folder))
            run(TASKS[task][0], task_options, frozen)
            ran = time.perf_counter() - began
        ratios.append(ran / passed)
        print(f"\nround {i + 1}: evaluation pass {passed:.1f} s, head-only run {ran:.1f} s\n")
    print(f"a head-only run takes {statistics.median(ratios):.2f} times one evaluation pass")
