"""Summaries: a prediction, the lead baseline, and how they are shown.

true        An ice storm cut power.                     the reference summary
predicted   Ice cut the power.                          score: ROUGE-L
lead        Freezing rain coated the lines today.       the first sentence of the document
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from minift import metrics
from minift.data.read import SummaryRecord
from minift.tasks.display import Display, on_one_line
from minift.text.sentences import first_sentence

MANY_AT_LIMIT = 0.05  # share of summaries cut at the length limit, above which a warning is shown


@dataclass(frozen=True)
class SummaryPrediction:
    """The generated text, and whether the length limit ended it."""

    text: str
    at_limit: bool


Records: TypeAlias = Sequence[SummaryRecord]
Features: TypeAlias = Sequence[Any]  # `SummaryFeature` in summarization.py
Predictions: TypeAlias = Sequence[SummaryPrediction]


@dataclass(frozen=True)
class SummaryDisplay(Display):
    """Documents with their summaries; see `Display`."""

    def describe(self, records: Records, features: Features) -> str:
        first, feature = records[0], features[0]
        long = len({feature.record for feature in features if feature.truncated})
        long_targets = sum(feature.target_truncated for feature in features)
        lines = [
            f"first record ({first.where})",
            f"  document  {on_one_line(first.document):.200}",
            f"  summary   {on_one_line(first.summaries[0]):.200}",
            f"  tokens    {self.tokens(feature.input_ids):.200}",
            f"  labels    {self.tokens(feature.labels or ()):.200}",
            f"documents   {long} of {len(records)} have more than {self.task.max_length} tokens "
            "and are truncated",
            f"summaries   {long_targets} have more than {self.task.max_target_length} tokens "
            f"and are truncated; generated ones have at most {self.task.max_target_length}",
        ]
        return "\n".join(lines)

    def format_report(
        self, predictions: Predictions, records: Records, score: dict[str, Any]
    ) -> str:
        """ROUGE of the summaries and of the lead baseline, and the first three summaries."""
        lines = [f"{'':14}  rouge1  rouge2  rougeL  rougeLsum"]
        for title, prefix in (("summaries", ""), ("first sentence", "lead_")):
            values = (f"{score[prefix + name]:6.4f}" for name in ("rouge1", "rouge2", "rougeL"))
            lines.append(f"{title:14}  {'  '.join(values)}  {score[prefix + 'rougeLsum']:9.4f}")
        if score["at_limit"] > MANY_AT_LIMIT:
            lines.append(
                f"warning: {score['at_limit']:.0%} of the summaries reach the limit of "
                f"{self.task.max_target_length} tokens; raise it with --max-target-length"
            )
        for prediction, record in list(zip(predictions, records, strict=True))[:3]:
            lines += [
                f"  document   {' '.join(record.document.split()):.160}",
                f"    true       {' '.join(record.summaries[0].split()):.160}",
                f"    predicted  {' '.join(prediction.text.split()):.160}",
            ]
        return "\n".join(lines)

    def to_rows(self, predictions: Predictions, records: Records) -> list[dict]:
        rows = []
        for prediction, record in zip(predictions, records, strict=True):
            score = None
            if record.summaries:
                score = metrics.rouge([prediction.text], [list(record.summaries)])["rougeL"]
            rows.append(
                {
                    "id": record.id,
                    "document": record.document,
                    "gold": list(record.summaries) or None,
                    "predicted": prediction.text,
                    "score": score,
                }
            )
        return rows


def lead_scores(records: Records) -> dict[str, float]:
    """ROUGE of the documents' first sentences, the lead baseline."""
    references = [list(record.summaries) for record in records]
    return metrics.rouge([first_sentence(record.document) for record in records], references)
