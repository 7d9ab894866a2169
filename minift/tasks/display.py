"""Everything about showing a task: the printed texts, and the lines of predictions.*.jsonl.

A task computes; the display beside it shows.  Only `to_rows` has no default.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minift.errors import escape_controls


@dataclass(frozen=True)
class Display(ABC):
    """Shows the records and predictions of a task; each task has its own subclass.

    task: a `Task`, with its labels, options and tokenizer.
    """

    task: Any

    def describe(self, records: Sequence[Any], features: Sequence[Any]) -> str:
        """The first record as text, tokens and labels, and counts; printed before training."""
        fields = {name: value for name, value in vars(records[0]).items() if name != "where"}
        fields = {name: value for name, value in fields.items() if value is not None}
        tokens = self.task.tokenizer.convert_ids_to_tokens(features[0].input_ids)
        width = max(map(len, [*fields, "tokens"]))
        lines = [
            f"first record ({records[0].where})",
            *(f"  {name:{width}}  {on_one_line(value):.200}" for name, value in fields.items()),
            f"  {'tokens':{width}}  {' '.join(tokens):.200}",
            f"features  {len(features)} of {len(records)} records",
        ]
        return "\n".join(lines)

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
    width = max(map(len, [*scores, heading]))
    return [
        f"{heading:{width}}  precision  recall     f1  {support}",
        *(
            f"{name:{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:5.3f}"
            f"  {row['support']:{len(support)}d}"
            for name, row in scores.items()
        ),
    ]
