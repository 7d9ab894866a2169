"""What the training loop knows of a task: records become features, features become batches, a
batch gives a loss, features give predictions, predictions give a score.

The loop, the checkpoints and the reports see only the names in this file, so they never ask which
task they run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from minift.models.base import PretrainedModel


def option(default: Any, sentence: str) -> Any:
    """A field of an options dataclass with the sentence that --help shows."""
    return dataclasses.field(default=default, metadata={"help": sentence})


def check_range(options: object, name: str, low: float, high: float = float("inf")) -> None:
    """`ValueError` if an option is outside its bounds."""
    value = getattr(options, name)
    if value is not None and not low <= value <= high:
        bounds = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be {bounds}")


@dataclass(frozen=True)
class TaskOptions:
    """Where a task's model and data come from."""

    model: str = option("all-MiniLM-L6-v2", "Folder, name under weights/ or hub id to start from.")
    train_file: Path | None = option(None, "Training data; without it the built-in set is used.")
    dev_file: Path | None = option(None, "Data that the best model is chosen on.")
    test_file: Path | None = option(None, "Data that the best model is tested on at the end.")
    max_length: int | None = option(
        None, "Longest input in tokens; if not given, the model's limit."
    )

    def __post_init__(self) -> None:
        check_range(self, "max_length", 3)
        if self.train_file is None and (self.dev_file or self.test_file):
            raise ValueError("--dev-file and --test-file need a --train-file that they belong to")


class Feature(Protocol):
    """One model input, which knows its record."""

    record: int  # index of the record in its split

    @property
    def length(self) -> int:
        """Tokens, special ones included."""


class Batch(Protocol):
    """Features as tensors."""

    real_tokens: int  # without padding
    all_tokens: int  # with it

    def to(self, device: Any) -> Batch: ...


class Task(Protocol):
    """The whole story of a task.  Frozen: what training changes lives in the model."""

    name: str
    metric: str  # the metric that the best model is chosen by; more is better

    @classmethod
    def start(cls, options: Any) -> tuple[Task, PretrainedModel, dict[str, Sequence[Any]]]:
        """Read the data, load the model that fits it: (task, model, split name -> records)."""

    @classmethod
    def from_pretrained(cls, folder: Path) -> tuple[Task, PretrainedModel]:
        """The task and the model that a run saved, for prediction."""

    def read_inputs(self, inputs: Iterable[str] | Path) -> Iterable[Any]:
        """Records without gold answers, from raw lines or from a data file."""

    def describe(self, records: Sequence[Any], features: Sequence[Any]) -> str:
        """The first record as text, tokens and labels, and the counts: shown before training."""

    def featurize(self, records: Sequence[Any]) -> list[Feature]:
        """One feature or more for each record."""

    def freeze(self, model: Any, features: Sequence[Feature], batch_size: int) -> list[Feature]:
        """The same features with what the frozen encoder makes of them, computed once."""

    def collate(self, features: Sequence[Feature]) -> Batch: ...

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the losses and their count (or weight), so that accumulation is exact."""

    def predict(self, model: Any, features: Sequence[Feature], batch_size: int) -> list[Any]:
        """One prediction for each record that the features come from, in the records' order."""

    def score(self, predictions: Sequence[Any], records: Sequence[Any]) -> dict[str, Any]:
        """Metrics; those of one number can choose the best model."""

    def explain(
        self, predictions: Sequence[Any], records: Sequence[Any], score: dict[str, Any]
    ) -> str:
        """What was learned, for a person: a table of the score and some predictions."""

    def rows(self, predictions: Sequence[Any], records: Sequence[Any]) -> list[dict]:
        """What predictions.*.jsonl says of each record: asked, gold, predicted, score."""

    def lines(self, predictions: Sequence[Any], records: Sequence[Any]) -> list[str]:
        """A line for a person on each prediction."""

    def save(self, model: PretrainedModel, folder: Path) -> None:
        """Write the model and everything that `from_pretrained` needs."""
