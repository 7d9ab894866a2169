"""Prediction with a saved model of any task, for inputs that may come as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from minift.data.batching import batched
from minift.nn.int8 import quantize_int8
from minift.tasks.registry import task_of

CHUNK_SIZE = 1024  # inputs that are sorted by length and predicted together


def predict_lines(
    folder: str | Path,
    lines: str | Path | Iterable[str],
    questions: Sequence[str] = (),
    as_json: bool = False,
    colour: bool = False,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    int8: bool = False,
) -> Iterator[str]:
    """Yield one string for each input, in the order of the inputs: text for people, or JSON.

    folder: output directory of a training script.
    lines: texts, or the path of a file in a format of the task's training data, labels optional.
    questions: asked of each text; only for question answering.
    as_json: a JSON object for each input, in one line.
    colour: mark the findings with a terminal's colours, if the task has any to mark.
    int8: compute linear layers in 8-bit integers, on the CPU: faster and slightly less exact.

    Inputs are read, predicted and yielded a thousand at a time.  Raises `UserError` for a folder or
    an input that cannot be used.
    """
    task, model = task_of(folder).from_pretrained(folder)
    model = quantize_int8(model.to(device)) if int8 else model.to(device)
    for records in batched(task.read_inputs(lines, questions), CHUNK_SIZE):
        predictions = task.predict(model, task.featurize(records), batch_size)
        if as_json:
            for row in task.display.to_rows(predictions, records):
                yield json.dumps(row, ensure_ascii=False)
        else:
            yield from task.display.to_lines(predictions, records, colour)
