"""Prediction for people and programs: inputs in any form, one line out for each, as they come."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from minift.data.batching import parts
from minift.models.registry import task_of
from minift.nn.int8 import in_int8
from minift.tasks.registry import TASKS

AT_ONCE = 1024  # inputs that are batched by length together, and lines held back meanwhile


def predict_lines(
    folder: Path,
    lines: Iterable[str] | Path,
    questions: Sequence[str] = (),
    as_json: bool = False,
    colour: bool = False,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    int8: bool = False,
) -> Iterator[str]:
    """One line of text, or of JSON, for each input, in the order of the inputs.

    colour: mark what was found with the colours of a terminal, where the task has some.
    lines: texts, or a file in one of the formats of the task's training data, labels not needed.
    questions: to be asked of each text, where the task is about questions.
    int8: compute in whole numbers of 8 bits, on the CPU: faster, and a little less exact.
    Lines are taken, predicted and given back a thousand at a time.
    """
    task_class, _ = TASKS[task_of(folder)]
    task, model = task_class.from_pretrained(folder)
    model = in_int8(model.to(device)) if int8 else model.to(device)
    for part in parts(task.read_inputs(lines, questions), AT_ONCE):
        predictions = task.predict(model, task.featurize(part), batch_size)
        if as_json:
            yield from (json.dumps(r, ensure_ascii=False) for r in task.rows(predictions, part))
        else:
            yield from task.lines(predictions, part, colour)
