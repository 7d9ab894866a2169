"""Entities of named-entity recognition: predictions, their score, and how they are shown.

the [Ada]PER in [Paris]LOC           marked_text
  PER      0.97        4-7  Ada      type, score, characters of the text, the entity's text
  LOC      0.91      11-16  Paris
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minift import metrics
from minift.data.batching import IGNORE_INDEX
from minift.data.columns import TagRecord
from minift.errors import escape_fields
from minift.tasks.display import Display, on_one_line, score_table, with_single_blanks
from minift.terminal import coloured, joined

COLOURS = (31, 32, 34, 35, 36, 33)  # terminal codes: red, green, blue, magenta, cyan, yellow


@dataclass(frozen=True)
class TagPrediction:
    """A tag for each word of the record, and its probability."""

    tags: tuple[str, ...]
    scores: tuple[float, ...]


def score_entities(
    predictions: Sequence[TagPrediction], records: Sequence[TagRecord]
) -> dict[str, Any]:
    """Precision, recall and F1 of entities, also by type; strict F1, token accuracy, errors."""
    predicted = [prediction.tags for prediction in predictions]
    gold = [record.tags for record in records]
    return {
        **metrics.entity_f1(predicted, gold),
        "f1_strict": metrics.entity_f1(predicted, gold, strict=True)["f1"],
        "token_accuracy": metrics.token_accuracy(predicted, gold),
        "errors": metrics.entity_errors(predicted, gold),
    }


@dataclass(frozen=True)
class EntityDisplay(Display):
    """Texts with their entities; see `Display`."""

    def describe(self, records: Sequence[TagRecord], features: Sequence[Any]) -> str:
        first, feature = records[0], features[0]
        names = [
            "-" if label == IGNORE_INDEX else self.task.labels[label]
            for label in feature.labels or [IGNORE_INDEX] * feature.length
        ]
        lengths = Counter(end - start for f in features for start, end in f.spans)
        long = [n for n in Counter(feature.record for feature in features).values() if n > 1]
        kinds = Counter(tag[2:] for r in records for tag in r.tags or () if tag.startswith("B-"))
        lines = [
            f"first record ({first.where})",
            f"  words   {escape_fields(' '.join(first.words))}",
            f"  tags    {escape_fields(' '.join(first.tags or ()))}",
            f"  tokens  {self.tokens(feature.input_ids)}",
            f"  labels  {escape_fields(' '.join(names))}  "
            f"(label strategy {self.task.options.label_strategy})",
            f"schemes   {', '.join(self.task.schemes)} -> iob2",
            "entities  " + escape_fields(", ".join(f"{k} {kinds[k]}" for k in sorted(kinds))),
            f"words     {lengths.total()}, of which {lengths.total() - lengths[0] - lengths[1]} "
            f"have several subword tokens and {lengths[0]} have none",
            f"length    {len(long)} of {len(records)} texts have more than {self.task.max_length} "
            f"tokens and are split into windows, {sum(long)} in all; nothing is truncated",
        ]
        return "\n".join(lines)

    def format_report(
        self,
        predictions: Sequence[TagPrediction],
        records: Sequence[TagRecord],
        score: dict[str, Any],
    ) -> str:
        """Scores of each type, counts of each kind of error, and three wrong sentences."""
        counts = (f"{kind.replace('_', ' ')} {count}" for kind, count in score["errors"].items())
        lines = [
            *score_table("type", score["per_type"], "entities"),
            "entities  " + ", ".join(counts),
        ]
        pairs = zip(predictions, records, strict=True)
        wrong = [
            (prediction, record) for prediction, record in pairs if prediction.tags != record.tags
        ]
        for prediction, record in wrong[:3]:
            lines.append(f"  {on_one_line(record.text):.200}")
            lines.append(f"    true       {list_entities(record.words, record.tags)}")
            lines.append(f"    predicted  {list_entities(record.words, prediction.tags)}")
        return "\n".join(lines)

    def to_rows(
        self, predictions: Sequence[TagPrediction], records: Sequence[TagRecord]
    ) -> list[dict[str, Any]]:
        return [
            {
                "id": record.id,
                "text": record.text,
                "tokens": record.words,
                "gold": record.tags,
                "predicted": prediction.tags,
                "score": min(prediction.scores, default=1.0),
                "entities": found_entities(prediction.tags, prediction.scores, record),
            }
            for prediction, record in zip(predictions, records, strict=True)
        ]

    def to_lines(
        self,
        predictions: Sequence[TagPrediction],
        records: Sequence[TagRecord],
        colour: bool = False,
    ) -> list[str]:
        """The text with its entities in brackets or colours, then one line for each entity."""
        types = sorted({label[2:] for label in self.task.labels if label != "O"})
        return [
            marked_text(record.text, found_entities(p.tags, p.scores, record), types, colour)
            for p, record in zip(predictions, records, strict=True)
        ]


def found_entities(
    tags: Sequence[str], scores: Sequence[float], record: TagRecord
) -> list[dict[str, Any]]:
    """type, text, start, end (in characters of the record's text) and score of each entity.

    tags, scores: of each word, with the probability of its tag.  The score of an entity is the mean
    over its words.
    """
    found = []
    for entity in metrics.entities(tags):
        start, end = record.offsets[entity.start][0], record.offsets[entity.end - 1][1]
        word_scores = scores[entity.start : entity.end]
        found.append(
            {
                "type": entity.type,
                "text": record.text[start:end],
                "start": start,
                "end": end,
                "score": sum(word_scores) / len(word_scores),
            }
        )
    return found


def marked_text(
    text: str, found: Sequence[dict[str, Any]], types: Sequence[str], colour: bool
) -> str:
    """The text on one line with its entities marked, then one line for each entity.

    found: from `found_entities`.  types: all entity types, so that a type keeps its colour.
    """
    colour_of = {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(types)}
    parts: list[str] = []
    lines, position = [], 0
    for entity in found:
        kind, name = escape_fields(entity["type"]), on_one_line(entity["text"])
        shown = coloured(name, colour_of[entity["type"]]) if colour else f"[{name}]{kind}"
        parts += [with_single_blanks(text[position : entity["start"]]), shown]
        position = entity["end"]
        offsets = f"{entity['start']}-{entity['end']}"
        lines.append(f"\n  {kind:8} {entity['score']:.2f}  {offsets:>9}  {name}")
    parts.append(with_single_blanks(text[position:]).rstrip())
    parts[0] = parts[0].lstrip()
    return joined([*parts, *lines])


def list_entities(words: Sequence[str], tags: Sequence[str]) -> str:
    """The entities of a sentence in one line.

    >>> list_entities(["Ada", "Lovelace", "in", "Paris"], ["B-PER", "I-PER", "O", "B-LOC"])
    'PER Ada Lovelace, LOC Paris'
    """
    names = [f"{e.type} {' '.join(words[e.start : e.end])}" for e in metrics.entities(tags)]
    return escape_fields(", ".join(names)) or "-"
