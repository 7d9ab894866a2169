"""Everything about showing a task: the printed texts, and the lines of predictions.*.jsonl.

A task computes; the display beside it shows.  Only `to_rows` has no default.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minift.errors import escape_controls, escape_fields

INPUT_KEYS = ("id", "text", "text_pair", "document", "question", "gold")


@dataclass(frozen=True)
class Display(ABC):
    """Shows the records and predictions of a task; each task has its own subclass.

    task: a `Task`, with its labels, options and tokenizer.
    """

    task: Any

    def describe(self, records: Sequence[Any], features: Sequence[Any]) -> str:
        """The first record as text, tokens and labels, and counts; printed before training."""
        fields = {name: value for name, value in vars(records[0]).items() if value is not None}
        fields = {name: value for name, value in fields.items() if name not in ("where", "extra")}
        width = max(map(len, [*fields, "tokens"]))
        lines = [
            f"first record ({records[0].where})",
            *(f"  {name:{width}}  {on_one_line(value):.200}" for name, value in fields.items()),
            f"  {'tokens':{width}}  {self.tokens(features[0].input_ids):.200}",
            f"features  {len(features)} of {len(records)} records",
        ]
        return "\n".join(lines)

    def tokens(self, input_ids: Sequence[int]) -> str:
        """Tokens on one line, separated by blanks."""
        return escape_fields(" ".join(self.task.tokenizer.convert_ids_to_tokens(input_ids)))

    def format_report(
        self, predictions: Sequence[Any], records: Sequence[Any], score: dict[str, Any]
    ) -> str:
        """The printed summary of a run: a table of scores, or some predictions.

        Default: the first three rows.
        """
        lines = []
        for row in self.to_rows(predictions[:3], records[:3]):
            width = max(map(len, row))
            known = ((name, value) for name, value in row.items() if value is not None)
            shown = (f"{name:{width}}  {on_one_line(value):.160}" for name, value in known)
            lines.append("  " + "\n    ".join(shown))
        return "\n".join(lines)

    @abstractmethod
    def to_rows(self, predictions: Sequence[Any], records: Sequence[Any]) -> list[dict[str, Any]]:
        """The lines of predictions.*.jsonl: for each record its input, gold, predicted, score."""

    def full_rows(self, predictions: Sequence[Any], records: Sequence[Any]) -> list[dict[str, Any]]:
        """`to_rows` as they are written: with the file's other columns, and null for a blank input.

        An id of the file replaces the number of the record.
        """
        pairs = zip(self.to_rows(predictions, records), records, strict=True)
        return [add_columns(without_result(r) if is_blank(x) else r, x) for r, x in pairs]

    def to_lines(
        self, predictions: Sequence[Any], records: Sequence[Any], colour: bool = False
    ) -> list[str]:
        """One string for each prediction, to be printed; `colour`: with a terminal's colours.

        Default: "predicted" of each row.
        """
        rows = self.to_rows(predictions, records)
        return [escape_controls(on_one_line(row["predicted"])) for row in rows]

    def exports(self, predictions: Sequence[Any], records: Sequence[Any]) -> dict[str, Any]:
        """Predictions in the formats of official scorers: name of a JSON file -> its content."""
        return {}


def is_blank(record: Any) -> bool:
    """Whether a record holds nothing to predict, so that its result is null, or an empty line."""
    return getattr(record, "is_blank", False)


def without_result(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose prediction, score and so on are null."""
    return {name: value if name in INPUT_KEYS else None for name, value in row.items()}


def add_columns(row: Mapping[str, Any], record: Any) -> dict[str, Any]:
    """A row with the record's other columns; one with the name of a result is called input_NAME.

    >>> from types import SimpleNamespace as Record
    >>> add_columns({"id": "0", "score": 0.9}, Record(extra={"id": "r7", "score": 3, "year": 1999}))
    {'id': 'r7', 'score': 0.9, 'input_score': 3, 'year': 1999}
    """
    row = dict(row)
    for name, value in getattr(record, "extra", {}).items():
        value = value if is_json(value) else None
        if name == "id":
            row["id"] = row["id"] if value is None else value
        elif is_json(name):
            row[f"input_{name}" if name in row else name] = value
    return row


def is_json(value: Any) -> bool:
    """Whether a file of JSON can hold a value: not NaN, nor half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def label_line(row: Mapping[str, Any]) -> str:
    """label<TAB>probability of each label<TAB>text, of a row of classification."""
    probabilities = " ".join(f"{label}={p:.4f}" for label, p in row["probabilities"].items())
    fields = (row["predicted"], probabilities, on_one_line(row["text"]))
    return "\t".join(map(escape_fields, fields))


def with_single_blanks(text: str) -> str:
    """A text in which each run of blanks and line ends is one blank."""
    return re.sub(r"\s+", " ", text)


def on_one_line(value: Any) -> str:
    """A value as text without line ends and extra blanks; a number with six digits.

    >>> on_one_line("two\\nlines"), on_one_line(2.8273803906838095)
    ('two lines', '2.82738')
    """
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split())


def score_table(heading: str, scores: Mapping[str, Mapping[str, float]], support: str) -> list[str]:
    """Precision, recall, F1 and support of each label or type, as lines of text.

    heading, support: the headings of the first and of the last column.
    """
    scores = {escape_fields(name): row for name, row in scores.items()}
    width = max(map(len, [*scores, heading]))
    return [
        f"{heading:{width}}  precision  recall     f1  {support}",
        *(
            f"{name:{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:5.3f}"
            f"  {row['support']:{len(support)}d}"
            for name, row in scores.items()
        ),
    ]
