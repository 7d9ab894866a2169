"""Inference speed: minift as in predict.py, `transformers` in order of length and in the file's."""

import statistics
import tempfile
from dataclasses import dataclass

import torch

from benchmarks.peers import PEERS, alternate, speed_columns
from minift.data.batching import chunks
from minift.device import pick_device
from minift.errors import UserError
from minift.options import check_range, option
from minift.reports.tables import markdown_table
from minift.tasks.batches import head_logits, run_batches
from minift.tasks.registry import TASKS
from minift.terminal import print_line


@dataclass(frozen=True)
class InferenceOptions:
    """Measurement."""

    rounds: int = option(5, "Rounds in which the sides run, in turn.")
    records: int = option(1000, "Training records to predict; at most all.")

    def __post_init__(self) -> None:
        check_range(self, "rounds", 1, 100_000)
        check_range(self, "records", 1)


def inference(task_name, task_options, options, measurement):
    """Time both sides on the same records, and compare the logits of every text; encoders only."""
    if task_name == "summarization":
        raise UserError(
            "inference: compares encoders only; for summarization use benchmark.py generation"
        )
    device = pick_device(options.device)
    task, model, splits = TASKS[task_name].from_options(task_options)
    model.to(device)
    features = task.featurize(splits["train"][: measurement.records])
    size = options.batch_size
    by_length = sorted(range(len(features)), key=lambda i: features[i].length)
    orders = {"in order of length": by_length, "in the file's order": range(len(features))}
    peer = same_model(task_name, task, model).to(device)

    @torch.inference_mode()
    def peer_logits(order):
        rows = {}
        for indices in chunks(list(order), size):
            batch = task.collate([features[i] for i in indices]).to(device)
            logits = peer(batch.input_ids, batch.attention_mask, batch.token_type_ids)
            rows.update(zip(indices, stacked(logits).float().cpu(), strict=True))
        return [rows[i] for i in range(len(features))]

    sides = {"minift": lambda _: logits_of(task, model, features, size)}
    sides |= {
        f"transformers, {name}": lambda _, order=order: peer_logits(order)
        for name, order in orders.items()
    }
    seconds, results = alternate(sides, measurement.rounds)
    gap = max(
        (a.flatten() - b[: len(a)].flatten()).abs().max().item()
        for a, b in zip(results["minift"], results["transformers, in order of length"], strict=True)
    )
    print_line(f"logits differ by at most {gap:.2g}")
    rows = [
        {
            "inference": name,
            "texts per second": round(len(features) / statistics.median(times)),
            **speed_columns(seconds["minift"], times),
        }
        for name, times in seconds.items()
    ]
    print_line("\n" + markdown_table(rows))


def stacked(logits):
    """The logits as one tensor (B, ...); start and end logits (B, T) become (B, T, 2)."""
    return torch.stack(logits, -1) if isinstance(logits, tuple) else logits


def logits_of(task, model, features, size):
    """The logits of minift's model for each feature, without those of the padding."""
    rows = run_batches(task.collate, model, head_logits, features, size, "predict")
    return [
        row if row.dim() == 1 else row[: feature.length]
        for row, feature in zip(rows, features, strict=True)
    ]


def same_model(task_name, task, model):
    """The peer's model with the weights of `model`."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return PEERS[task_name](task, folder).eval()
