"""Two classification tasks, one after the other, with one head: what the second costs the first.

    labels   first: 0   first: 1 | second: 0   second: 1       one row of the head for each
    record of the first task       only these two take part in loss and prediction
                     record of the second task       only those two

So the head of the first task is kept as it is while the second is learned (its rows get no
gradient; weight decay shortens them a little, all alike), and what is lost is lost in the encoder
(McCloskey and Cohen 1989, "Catastrophic interference in connectionist networks").  With `replay`
some records of the first task are learned again among those of the second (Robins 1995,
"Catastrophic forgetting, rehearsal and pseudorehearsal").
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from minift.data.read import TextRecord
from minift.models.base import PretrainedModel
from minift.tasks.base import check_range, option
from minift.tasks.classification import (
    ClassificationOptions,
    ClassificationTask,
    LabelPrediction,
    TextFeature,
    read_splits,
    sort_labels,
)


@dataclass(frozen=True)
class TwoTaskOptions(ClassificationOptions):
    """Two tasks: --train-file and --dev-file are the second's, which is learned after the first."""

    first_train_file: tuple[Path, ...] = option((), "Training data of the first task.")
    first_dev_file: Path | None = option(None, "Data that its quality is measured on.")
    first_text_column: str = option("text", "Column of its text.")
    first_label_column: str = option("label", "Column of its label.")
    stage: Literal["first", "second"] = option("second", "Which of the two is learned now.")
    replay: float = option(0.1, "Records of the first learned again for each of the second's.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "replay", 0)
        if self.label_smoothing or self.r_drop:
            raise ValueError(
                "--label-smoothing and --r-drop compare all labels, also those of the other task; "
                "leave them out"
            )
        given = (self.train_file, self.dev_file, self.first_train_file, self.first_dev_file)
        if not all(given):
            raise ValueError(
                "two tasks need --first-train-file, --first-dev-file, --train-file and --dev-file; "
                "give all four"
            )

    @property
    def of_first(self) -> ClassificationOptions:
        """Where the first task's data is."""
        return ClassificationOptions(
            train_file=self.first_train_file,
            dev_file=self.first_dev_file,
            text_column=self.first_text_column,
            label_column=self.first_label_column,
        )


@dataclass(frozen=True)
class TwoTasks(ClassificationTask):
    """In its first stage dev is the first task's, in the second dev is the second's, test the
    first's."""

    @classmethod
    def start(
        cls, options: TwoTaskOptions
    ) -> tuple[TwoTasks, PretrainedModel, dict[str, list[TextRecord]]]:
        first = _named("first", read_splits(options.of_first))
        second = _named("second", read_splits(options))
        if options.stage == "first":
            splits = first
        else:
            count = min(round(options.replay * len(second["train"])), len(first["train"]))
            again = random.Random(len(first["train"])).sample(first["train"], count)
            splits = {**second, "train": [*second["train"], *again], "test": first["dev"]}
        labels = {record.label for record in [*first["train"], *second["train"]]}
        return *cls.start_with(options, splits, sort_labels(labels)), splits

    def rivals(self, label: int) -> list[bool]:
        """Which labels belong to the same task as this one.

        "first: 0" of ("first: 0", "first: 1", "second: 0") -> [True, True, False]
        """
        stages = [label.partition(":")[0] for label in self.labels]
        return [stage == stages[label] for stage in stages]

    def _cross_entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = labels.new_tensor([self.rivals(label) for label in labels.tolist()]).bool()  # (B, C)
        return super()._cross_entropies(logits.float().masked_fill(~own, -math.inf), labels)

    def predict(
        self, model: Any, features: Sequence[TextFeature], batch_size: int
    ) -> list[LabelPrediction]:
        """The most probable label of the record's own task."""
        found = super().predict(model, features, batch_size)
        tasks = {feature.record: self.rivals(feature.label) for feature in features}
        chosen = []
        for prediction, record in zip(found, sorted(tasks), strict=True):
            pairs = zip(prediction.probabilities, tasks[record], strict=True)
            own = [p if same else 0.0 for p, same in pairs]
            total = sum(own)
            probabilities = [p / total for p in own]
            best = self.labels[probabilities.index(max(probabilities))]
            chosen.append(LabelPrediction(best, probabilities))
        return chosen


def _named(stage: str, splits: dict[str, list[TextRecord]]) -> dict[str, list[TextRecord]]:
    """The task's name in front of each label."""
    return {
        split: [replace(record, label=f"{stage}: {record.label}") for record in records]
        for split, records in splits.items()
    }
