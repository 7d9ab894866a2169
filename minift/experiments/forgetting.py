"""Catastrophic forgetting: two classification tasks, trained one after the other with one head.

    labels                         first: 0   first: 1   second: 0   second: 1   (rows of the head)
    records of the first task          x          x          -           -
    records of the second task         -          -          x           x

Loss and prediction of a record use only the labels of its own task (x).  While the second task is
trained, the head's rows of the first therefore get no gradient; weight decay shrinks them all by
the same factor.  So forgetting happens in the encoder (McCloskey and Cohen 1989, "Catastrophic
interference in connectionist networks").  With `replay_ratio`, some records of the first task are
trained again among those of the second (Robins 1995, "Catastrophic forgetting, rehearsal and
pseudorehearsal").
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from minift.data.read import TextRecord
from minift.errors import UserError
from minift.models.base import PretrainedModel
from minift.options import check_range, option
from minift.tasks.classification import (
    ClassificationOptions,
    ClassificationTask,
    LabelPrediction,
    TextFeature,
)
from minift.tasks.labels import sort_labels


@dataclass(frozen=True)
class TwoTaskOptions(ClassificationOptions):
    """Two tasks: --train-file and --dev-file belong to the second, which is trained last."""

    first_train_file: tuple[Path, ...] = option((), "Training data of the first task.", common=True)
    first_dev_file: Path | None = option(None, "Dev data of the first task.", common=True)
    first_text_column: str = option("text", "Column of the first task's text.")
    first_label_column: str = option("label", "Column of the first task's label.")
    stage: Literal["first", "second"] = option(
        "second", "The task to train on; set by the comparison.", flag=False
    )
    replay_ratio: float = option(
        0.1, "Records of the first task replayed for each record of the second; 0: no replay."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "replay_ratio", 0)
        if self.label_smoothing or self.r_drop:
            raise ValueError(
                "--label-smoothing and --r-drop use the probabilities of all labels, also those of "
                "the other task; leave them out"
            )
        given = (self.train_file, self.dev_file, self.first_train_file, self.first_dev_file)
        if not all(given):
            raise ValueError(
                "two tasks need --first-train-file, --first-dev-file, --train-file and --dev-file; "
                "give all four"
            )

    @property
    def first_task(self) -> ClassificationOptions:
        """Options that read the first task's data."""
        return ClassificationOptions(
            train_file=self.first_train_file,
            dev_file=self.first_dev_file,
            text_column=self.first_text_column,
            label_column=self.first_label_column,
        )


@dataclass(frozen=True)
class TwoTasks(ClassificationTask):
    """A classification task whose records use the labels of their own task only.

    stage         train                           dev           test
    first         first task                      first task    -
    second        second task, and the replayed   second task   dev data of the first task
    """

    options_class = TwoTaskOptions

    @classmethod
    def read_splits(cls, options: TwoTaskOptions) -> dict[str, list[TextRecord]]:
        first, second = _read_both(options)
        if options.stage == "first":
            return first
        count = min(round(options.replay_ratio * len(second["train"])), len(first["train"]))
        replayed = random.Random(len(first["train"])).sample(first["train"], count)
        return {**second, "train": [*second["train"], *replayed], "test": first["dev"]}

    @classmethod
    def from_records(
        cls, options: TwoTaskOptions, splits: Mapping[str, Sequence[TextRecord]]
    ) -> tuple[TwoTasks, PretrainedModel]:
        """The head counts as new in both stages.

        Training on the first task did not reach its rows of the second task, so they have no values
        for L2-SP or WiSE-FT to keep near.
        """
        task, model = super().from_records(options, splits)
        head = [name for name, _ in model.head_parameters() if name not in model.new_parameters]
        if model.load_report is not None:
            new = (*model.load_report.new, *head)
            model.load_report = replace(model.load_report, new=new)
        return task, model

    @classmethod
    def labels_of(
        cls, options: TwoTaskOptions, splits: Mapping[str, Sequence[TextRecord]]
    ) -> tuple[str, ...]:
        """The labels of both tasks, also in the stage whose splits hold only one of them."""
        return sort_labels({r.label for both in _read_both(options) for r in both["train"]})

    def same_task(self, label: int) -> list[bool]:
        """For each label, whether it belongs to the same task as this one.

        "first: 0" of ("first: 0", "first: 1", "second: 0") -> [True, True, False]
        """
        stages = [name.partition(":")[0] for name in self.labels]
        return [stage == stages[label] for stage in stages]

    def _cross_entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = labels.new_tensor(
            [self.same_task(label) for label in labels.tolist()]
        ).bool()  # (B, C)
        return super()._cross_entropies(logits.float().masked_fill(~own, -math.inf), labels)

    def predict(
        self, model: Any, features: Sequence[TextFeature], batch_size: int
    ) -> list[LabelPrediction]:
        """The most probable label of the record's own task; other labels have probability 0."""
        over_all_labels = super().predict(model, features, batch_size)
        masks = {feature.record: self.same_task(feature.label) for feature in features}
        predictions = []
        for prediction, record in zip(over_all_labels, sorted(masks), strict=True):
            pairs = zip(prediction.probabilities, masks[record], strict=True)
            own = [p if same else 0.0 for p, same in pairs]
            total = sum(own)
            probabilities = [p / total for p in own]
            best = self.labels[probabilities.index(max(probabilities))]
            predictions.append(LabelPrediction(best, probabilities))
        return predictions


def _read_both(options: TwoTaskOptions) -> list[dict[str, list[TextRecord]]]:
    """The splits of the first and of the second task, with the task's name before each label."""
    try:
        first = ClassificationTask.read_splits(options.first_task)
    except UserError as error:  # its remedies name the flags of the second task
        message = re.sub("--(text|pair|label)-column", r"--first-\1-column", str(error))
        raise UserError(message) from None
    second = ClassificationTask.read_splits(options)
    return [_prefix_labels("first", first), _prefix_labels("second", second)]


def _prefix_labels(stage: str, splits: dict[str, list[TextRecord]]) -> dict[str, list[TextRecord]]:
    """The records with their task's name before each label."""
    return {
        split: [replace(record, label=f"{stage}: {record.label}") for record in records]
        for split, records in splits.items()
    }
