"""Small summarization data: the summary names the one tree of the document."""

from __future__ import annotations

import json
import random

from minift.tasks.summarization import SummarizationOptions
from minift.training.options import TrainOptions

NAMES = ["oak", "elm", "fir", "yew"]


FILLER = ["the", "wind", "blew", "over", "field", "and", "hill", "all", "day", "long", "rain"]


def example(draw: random.Random) -> dict:
    """The summary names the one tree of the document."""
    words = draw.choices(FILLER, k=draw.randint(4, 12))
    name = draw.choice(NAMES)
    words.insert(draw.randrange(len(words)), name)
    return {"document": " ".join(words) + ".", "summary": f"{name} fell"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def options(tiny_t5, trees, folder, task=None, **changes):
    names = {"train_file": trees["train"], "dev_file": trees["dev"], "test_file": trees["test"]}
    settings = {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3, "device": "cpu", **changes}
    return (
        SummarizationOptions(model=str(tiny_t5), **{**names, **(task or {})}),
        TrainOptions(output_dir=folder, **settings),
    )
