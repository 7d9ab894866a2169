"""Logits of both sides in turn: ours as in predict.py, theirs in the file's order and by length."""

import statistics
import tempfile
from dataclasses import dataclass

import torch

from benchmarks.peers import REFERENCES, alternate, times_as_fast
from minift.data.batching import chunks
from minift.errors import InputError
from minift.tasks.base import option, run_batches
from minift.tasks.registry import TASKS
from minift.training.log import markdown_table
from minift.training.run import pick_device


@dataclass(frozen=True)
class InferenceOptions:
    """How long it is measured, and on how much."""

    rounds: int = option(5, "Rounds in which the sides take turns.")
    records: int = option(1000, "Training records, at most, that are predicted for.")


def inference(task, task_options, options, measured):
    """Of encoders; what is compared is the logits of every text."""
    if task == "summarization":
        raise InputError(
            "inference: summaries are generated; benchmark.py generation compares that"
        )
    device = pick_device(options.device)
    story, model, splits = TASKS[task][0].start(task_options)
    model.to(device)
    features = story.featurize(splits["train"][: measured.records])
    size = options.batch_size
    by_length = sorted(range(len(features)), key=lambda i: features[i].length)
    orders = {"in order of length": by_length, "in the file's order": range(len(features))}
    theirs = same_model(task, story, model).to(device)

    @torch.inference_mode()
    def their_logits(order):
        rows = {}
        for indices in chunks(list(order), size):
            batch = story.collate([features[i] for i in indices]).to(device)
            logits = theirs(batch.ids, batch.mask, batch.types)
            rows.update(zip(indices, stacked(logits).float().cpu(), strict=True))
        return [rows[i] for i in range(len(features))]

    sides = {"minift": lambda _: logits_of(story, model, features, size)}
    sides |= {
        f"transformers, {name}": lambda _, order=order: their_logits(order)
        for name, order in orders.items()
    }
    seconds, found = alternate(sides, measured.rounds)
    gap = max(
        (a.flatten() - b[: len(a)].flatten()).abs().max().item()
        for a, b in zip(found["minift"], found["transformers, in order of length"], strict=True)
    )
    print(f"logits differ by at most {gap:.2g}")
    rows = [
        {
            "inference": name,
            "texts per second": round(len(features) / statistics.median(times)),
            "seconds, relative": times_as_fast(seconds["minift"], times)[0],
            "from ... to": times_as_fast(seconds["minift"], times)[1],
        }
        for name, times in seconds.items()
    ]
    print("\n" + markdown_table(rows))


def stacked(logits):
    """(B, ...), also of a model that gives two."""
    return torch.stack(logits, -1) if isinstance(logits, tuple) else logits


def logits_of(story, model, features, size):
    """What our model says of each feature, its padding left out."""
    rows = run_batches(
        story, model, lambda *batch: stacked(model(*batch)), features, size, "predict"
    )
    return [
        row if row.dim() == 1 else row[: feature.length]
        for row, feature in zip(rows, features, strict=True)
    ]


def same_model(task, story, model):
    """The reference with our weights."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return REFERENCES[task](story, folder).eval()
