"""Entities for people: where they stand in the original text, in brackets or in colours.

the [Ada]PER in [Paris]LOC           marked_text, for a file
  PER      0.97        4-7  Ada      type, score, characters of the text, the text itself
  LOC      0.91      11-16  Paris
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minift import metrics
from minift.data.columns import TagRecord
from minift.errors import visible

COLOURS = (31, 32, 34, 35, 36, 33)  # of a terminal: red, green, blue, magenta, cyan, yellow


def found_entities(
    tags: Sequence[str], scores: Sequence[float], record: TagRecord
) -> list[dict[str, Any]]:
    """type, text, start, end (characters of the record's text) and score of each entity.

    tags, scores: of each word, and how probable it is; the score of an entity is the mean over its
    words.
    """
    found = []
    for entity in metrics.entities(tags):
        start, end = record.offsets[entity.start][0], record.offsets[entity.end - 1][1]
        own = scores[entity.start : entity.end]
        found.append(
            {
                "type": entity.type,
                "text": record.text[start:end],
                "start": start,
                "end": end,
                "score": sum(own) / len(own),
            }
        )
    return found


def marked_text(
    text: str, found: Sequence[dict[str, Any]], types: Sequence[str], colour: bool
) -> str:
    """The text on one line with its entities marked, and a line below for each.

    types: all that there are, so that each always has the same colour.
    """
    paint = {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(types)}
    marked, position = "", 0
    lines = []
    for entity in found:
        kind, name = entity["type"], visible(entity["text"])
        shown = f"\x1b[1;{paint[kind]}m{name}\x1b[0m" if colour else f"[{name}]{kind}"
        marked += visible(text[position : entity["start"]]) + shown
        position = entity["end"]
        place = f"{entity['start']}-{entity['end']}"
        lines.append(f"  {kind:8} {entity['score']:.2f}  {place:>9}  {name}")
    marked += visible(text[position:])
    return "\n".join([" ".join(marked.split()), *lines])


def listed(words: Sequence[str], tags: Sequence[str]) -> str:
    """The entities of a sentence, one after the other.

    >>> listed(["Ada", "Lovelace", "in", "Paris"], ["B-PER", "I-PER", "O", "B-LOC"])
    'PER Ada Lovelace, LOC Paris'
    """
    names = [f"{e.type} {' '.join(words[e.start : e.end])}" for e in metrics.entities(tags)]
    return ", ".join(names) or "-"
