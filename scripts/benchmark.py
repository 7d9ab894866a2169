"""minift beside `transformers`, on the same data, rates and seeds.

    benchmark.py quality TASK FLAGS    train both with every seed: dev scores, mean and spread
    benchmark.py speed TASK FLAGS      training steps of both in turn: the ratio of their speeds
    benchmark.py head TASK FLAGS       a head-only run beside one evaluation pass over its data

TASK is classification, ner or qa; FLAGS are those of its training script, and --seeds.  The only
script that needs the `parity` extra, since it runs the reference itself.
"""

import importlib.util
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from minift import hub
from minift.data.batch import training_batches
from minift.errors import InputError
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.tasks.ner import NerOptions, NerTask
from minift.tasks.qa import QaOptions, QaTask
from minift.train.compare import CompareOptions
from minift.train.loop import pick_device, run
from minift.train.optim import linear_schedule, new_optimizer, normalise_gradients, set_rate
from minift.train.options import TrainOptions, command_line, run_script
from minift.train.report import markdown_table, mean_and_spread

TASKS = {
    "classification": (
        ClassificationTask,
        ClassificationOptions,
        "AutoModelForSequenceClassification",
        ("accuracy", "matthews_correlation"),
    ),
    "ner": (NerTask, NerOptions, "AutoModelForTokenClassification", ("f1",)),
    "qa": (
        QaTask,
        QaOptions,
        "AutoModelForQuestionAnswering",
        ("f1", "exact", "f1_at_zero", "exact_at_zero", "answerable_f1", "answerable_exact"),
    ),
}


class Reference(torch.nn.Module):
    """The reference's model behind our calls, so that a task can score what it says."""

    def __init__(self, auto_class, source, count):
        super().__init__()
        import transformers  # here, so that --help works without the reference

        transformers.logging.set_verbosity_error()
        self.model = getattr(transformers, auto_class).from_pretrained(source, num_labels=count)

    @property
    def device(self):
        return self.model.device

    def forward(self, ids, mask, types):
        outputs = self.model(ids, mask, types)
        if "start_logits" in outputs:
            return outputs.start_logits, outputs.end_logits
        return outputs.logits


class Ours:
    """One training step of minift, as in train/loop.py."""

    def __init__(self, task, model, options):
        self.task, self.model, self.options = task, model, options
        self.optimizer = new_optimizer(model, options.optimizer, options.weight_decay)

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

    def __init__(self, task, model, options, fused=True):
        self.task, self.model, self.options = task, model, options
        groups = [
            {"params": [], "weight_decay": options.weight_decay},
            {"params": [], "weight_decay": 0.0},
        ]
        for parameter in model.parameters():
            groups[parameter.dim() <= 1]["params"].append(parameter)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=fused)

    def step(self, features, rate):
        self.model.train()
        set_rate(self.optimizer, rate)
        loss, count = self.task.loss(self.model, self.task.collate(features).to(self.model.device))
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def rows_of_head(task):
    return len(getattr(task, "labels", ("start", "end")))


def reference_of(task, auto_class):
    return Reference(auto_class, hub.resolve(task.options.model), rows_of_head(task))


def train_theirs(task_class, auto_class, task_options, options):
    """The reference in an ordinary loop, on our batches: its best dev score of all epochs."""
    torch.manual_seed(options.seed)
    task, _, splits = task_class.start(task_options)
    train, dev = (task.featurize(splits[name], name == "train") for name in ("train", "dev"))
    theirs = Theirs(task, reference_of(task, auto_class).to(pick_device(options.device)), options)
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
                options.learning_rate * linear_schedule(step, total, warmup),
            )
            step += 1
        predictions = task.predict(theirs.model, dev, options.batch_size)
        scores.append(task.score(predictions, splits["dev"]))
        print(f"reference, seed {options.seed}: {name} {scores[-1][name]:.4f}", flush=True)
    return max(scores, key=lambda s: s[name])


def quality(task_class, auto_class, columns, task_options, options, seeds):
    rows = {"minift": [], "transformers": []}
    for seed in range(options.seed, options.seed + seeds):
        seeded = replace(options, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            ours = run(task_class, task_options, replace(seeded, output_dir=Path(folder)))
        rows["minift"].append(ours["dev"])
        rows["transformers"].append(train_theirs(task_class, auto_class, task_options, seeded))
        print({name: [run[columns[0]] for run in runs] for name, runs in rows.items()}, flush=True)
    table = [
        {"library": name, **{c: mean_and_spread([run[c] for run in runs]) for c in columns}}
        for name, runs in rows.items()
    ]
    print("\n" + markdown_table(table))


def speed(task_class, auto_class, columns, task_options, options, seeds, rounds=15, steps=4):
    """Alternating rounds of a few steps; the same batches for ours and the reference's best."""
    device = pick_device(options.device)
    task, model, splits = task_class.start(task_options)
    features = task.featurize(splits["train"], training=True)
    lengths = [feature.length for feature in features]
    grouped = training_batches(lengths, options.batch_size, options.seed, 0)
    random = training_batches(lengths, options.batch_size, options.seed, 0, by_length=False)
    ours = Ours(task, model.to(device), options)
    best = Theirs(task, reference_of(task, auto_class).to(device), options, fused=True)
    default = Theirs(task, reference_of(task, auto_class).to(device), options, fused=False)

    # Same weights, same outputs: ours go to disk and are read by the reference.
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = Reference(auto_class, folder, rows_of_head(task)).to(device).eval()
    batch = task.collate([features[i] for i in grouped[1]]).to(device)
    with torch.inference_mode():
        pairs = [
            side if isinstance(side, tuple) else (side,)
            for side in (m(batch.ids, batch.mask, batch.types) for m in (model.eval(), theirs))
        ]
    gap = torch.stack([a - b for a, b in zip(*pairs, strict=True)], -1)
    real = gap[batch.mask.bool()] if gap.shape[:2] == batch.mask.shape else gap
    print(f"logits differ by at most {real.abs().max().item():.2g}")

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
            "seconds, relative": "1.00"
            if times is base
            else f"{statistics.median(t / b for t, b in zip(times, base, strict=True)):.2f}",
        }
        for name, times in seconds.items()
    ]
    print("\n" + markdown_table(table))


def head(task_class, auto_class, columns, task_options, options, seeds, rounds=3):
    """Head-only runs and evaluation passes over the training set in turn, as whole jobs."""
    ratios = []
    for i in range(rounds):
        began = time.perf_counter()
        task, model, splits = task_class.start(task_options)
        task.predict(model, task.featurize(splits["train"]), options.batch_size)
        passed = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            frozen = replace(options, freeze_encoder=True, output_dir=Path(folder))
            run(task_class, task_options, frozen)
            ran = time.perf_counter() - began
        ratios.append(ran / passed)
        print(f"\nround {i + 1}: evaluation pass {passed:.1f} s, head-only run {ran:.1f} s\n")
    print(f"a head-only run takes {statistics.median(ratios):.2f} times one evaluation pass")


def main():
    modes = {"quality": quality, "speed": speed, "head": head}
    mode, task, *flags = [*sys.argv[1:3], "", ""][:2] + sys.argv[3:]
    if "--help" in sys.argv:
        print(__doc__)
        task, flags = task if task in TASKS else "classification", ["--help"]
    elif mode not in modes or task not in TASKS:
        usage = f"{{{','.join(modes)}}} {{{','.join(TASKS)}}} FLAGS"
        raise InputError(f"benchmark.py: give it {usage}, not {f'{mode} {task}'.strip()!r}")
    task_class, options_class, auto_class, columns = TASKS[task]
    task_options, options, compare = command_line(
        options_class, TrainOptions, CompareOptions, argv=flags
    )
    options = options.with_rate(task_options.usual_rate)
    if importlib.util.find_spec("transformers") is None:
        raise InputError("transformers is not installed; pip install -e '.[parity]'")
    modes[mode](task_class, auto_class, columns, task_options, options, compare.seeds)


if __name__ == "__main__":
    run_script(main)
