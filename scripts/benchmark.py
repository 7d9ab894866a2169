"""minift beside `transformers`, on the same data, batches, rates and seeds.

    benchmark.py quality FLAGS    train both with every seed: dev scores, mean and spread
    benchmark.py speed FLAGS      steps of both in turn: the median ratio of their speeds
    benchmark.py head FLAGS       a head-only run beside one evaluation pass over the same data

FLAGS are those of train_classification.py, and --seeds.  The only script that needs the `parity`
extra, since it runs the reference itself.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from minift.data.batch import sorted_batches, training_batches
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.train.compare import CompareOptions
from minift.train.loop import pick_device, run
from minift.train.optim import adamw, linear_schedule, normalise_gradients, set_rate
from minift.train.options import TrainOptions, command_line, run_script
from minift.train.report import markdown_table, mean_and_spread


class Ours:
    """One training step of minift, as in train/loop.py."""

    def __init__(self, task, model, options):
        self.task, self.model, self.options = task, model, options
        self.optimizer = adamw(model, options.weight_decay)

    def step(self, features, rate):
        self.model.train()
        set_rate(self.optimizer, rate)
        loss, count = self.task.loss(self.model, self.task.collate(features).to(self.model.device))
        loss.backward()
        normalise_gradients(self.model, count, self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Theirs:
    """The same step with the reference's model, in an ordinary loop around it.

    fused: torch's fused AdamW, the faster of the two that people use.
    """

    def __init__(self, task, options, fused=True, device="cpu"):
        self.task, self.options = task, options
        folder = run_folder(task)
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=len(task.labels)
        ).to(device)
        groups = [
            {"params": [], "weight_decay": options.weight_decay},
            {"params": [], "weight_decay": 0.0},
        ]
        for parameter in self.model.parameters():
            groups[parameter.dim() <= 1]["params"].append(parameter)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=fused)

    def logits(self, features):
        batch = self.task.collate(features).to(self.model.device)
        return self.model(batch.ids, batch.mask, batch.types).logits, batch.labels

    def step(self, features, rate):
        self.model.train()
        set_rate(self.optimizer, rate)
        logits, labels = self.logits(features)
        torch.nn.functional.cross_entropy(logits, labels).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def predict(self, features):
        """Indices of the most probable labels, in the order of the features."""
        self.model.eval()
        found = [0] * len(features)
        with torch.inference_mode():
            batches = sorted_batches([f.length for f in features], self.options.batch_size)
            for indices in batches:
                logits, _ = self.logits([features[i] for i in indices])
                for i, label in zip(indices, logits.argmax(-1).tolist(), strict=True):
                    found[i] = label
        return found


def run_folder(task):
    from minift import hub

    return hub.resolve(task.options.model)


def train_theirs(task_options, options):
    """The reference trained as `minift.train.loop.run` trains: best dev score of all epochs."""
    torch.manual_seed(options.seed)
    task, _, splits = ClassificationTask.start(task_options)
    train, dev = (task.featurize(splits[name]) for name in ("train", "dev"))
    theirs = Theirs(task, options, device=pick_device(options.device))
    lengths = [feature.length for feature in train]
    epochs = [
        training_batches(
            lengths, options.batch_size, options.seed, epoch, options.batching == "length"
        )
        for epoch in range(options.epochs)
    ]
    total = sum(map(len, epochs))
    step, scores = 0, []
    for batches in epochs:
        for indices in batches:
            rate = options.rate * linear_schedule(step, total, round(total * options.warmup_ratio))
            theirs.step([train[i] for i in indices], rate)
            step += 1
        found = theirs.predict(dev)
        scores.append(score(task, found, splits["dev"]))
        print(f"reference, seed {options.seed}: {scores[-1]}", flush=True)
    name = options.best_metric or task.metric
    return max(scores, key=lambda s: s[name])


def score(task, found, records):
    from minift import metrics

    predicted, gold = [task.labels[i] for i in found], [record.label for record in records]
    return {
        "accuracy": metrics.accuracy(predicted, gold),
        "matthews_correlation": metrics.matthews_correlation(predicted, gold),
    }


def quality(task_options, options, seeds):
    rows = {"minift": [], "transformers": []}
    for seed in range(options.seed, options.seed + seeds):
        seeded = replace(options, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            ours = run(ClassificationTask, task_options, replace(seeded, output_dir=Path(folder)))
        rows["minift"].append(ours["dev"])
        rows["transformers"].append(train_theirs(task_options, seeded))
    columns = ("accuracy", "matthews_correlation")
    table = [
        {"library": name, **{c: mean_and_spread([run[c] for run in runs]) for c in columns}}
        for name, runs in rows.items()
    ]
    print("\n" + markdown_table(table))


def speed(task_options, options, seeds, rounds=15, steps=4):
    """Alternating rounds of a few steps; the same batches for ours and the reference's best."""
    device = pick_device(options.device)
    task, model, splits = ClassificationTask.start(task_options)
    features = task.featurize(splits["train"])
    lengths = [feature.length for feature in features]
    grouped = training_batches(lengths, options.batch_size, options.seed, 0)
    random = training_batches(lengths, options.batch_size, options.seed, 0, by_length=False)
    ours = Ours(task, model.to(device), options)
    best = Theirs(task, options, fused=True, device=device)
    default = Theirs(task, options, fused=False, device=device)

    best.model.load_state_dict({n: t.to(device) for n, t in exported(model).items()}, strict=True)
    first = [features[i] for i in grouped[1]]
    batch = task.collate(first).to(device)
    with torch.inference_mode():
        model.eval()
        best.model.eval()
        gap = (model(batch.ids, batch.mask, batch.types) - best.logits(first)[0]).abs().max()
    print(f"logits differ by at most {gap.item():.2g}")

    sides = {
        "minift": (ours, grouped),
        "transformers, length-grouped, fused AdamW": (best, grouped),
        "transformers, random batches, AdamW": (default, random),
    }
    seconds = {name: [] for name in sides}
    for i in range(-1, rounds):  # round -1 warms up
        for name, (side, batches) in sides.items():
            part = batches[(i + 1) * steps : (i + 2) * steps]
            began = time.perf_counter()
            for indices in part:
                side.step([features[j] for j in indices], 1e-5)
            if device.type == "cuda":
                torch.cuda.synchronize()
            tokens = sum(lengths[j] for indices in part for j in indices)
            if i >= 0:
                seconds[name].append((time.perf_counter() - began) / tokens)
    base = seconds["minift"]
    table = [
        {
            "training step": name,
            "real tokens per second": round(1 / statistics.median(times)),
            "minift is faster by": "1.00"
            if times is base
            else f"{statistics.median(t / b for t, b in zip(times, base, strict=True)):.2f}",
        }
        for name, times in seconds.items()
    ]
    print("\n" + markdown_table(table))


def exported(model):
    from minift.weights import export

    return export(model, model.table)


def head(task_options, options, seeds, rounds=3):
    """Head-only runs and evaluation passes over the training set in turn, as whole jobs."""
    ratios = []
    for i in range(rounds):
        began = time.perf_counter()
        task, model, splits = ClassificationTask.start(task_options)
        task.predict(model, task.featurize(splits["train"]), options.batch_size)
        passed = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            frozen = replace(options, freeze_encoder=True, output_dir=Path(folder))
            run(ClassificationTask, task_options, frozen)
            ran = time.perf_counter() - began
        ratios.append(ran / passed)
        print(f"\nround {i + 1}: evaluation pass {passed:.1f} s, head-only run {ran:.1f} s\n")
    print(f"a head-only run takes {statistics.median(ratios):.2f} times one evaluation pass")


def main():
    modes = {"quality": quality, "speed": speed, "head": head}
    if len(sys.argv) < 2 or sys.argv[1] not in modes:
        sys.exit(f"usage: benchmark.py {{{','.join(modes)}}} FLAGS\n{__doc__}")
    transformers.logging.set_verbosity_error()
    task_options, options, compare = command_line(
        ClassificationOptions, TrainOptions, CompareOptions, argv=sys.argv[2:]
    )
    modes[sys.argv[1]](task_options, options, compare.seeds)


if __name__ == "__main__":
    run_script(main)
