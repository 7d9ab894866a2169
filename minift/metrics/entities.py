"""Scores for entities: a predicted entity is right only if its words and its type are.

In: one list of tags for each sentence; "B-PER" begins an entity, "I-PER" continues it, "O" is
outside.  The docstrings share one example of two sentences:

    word         Ada     Lovelace  met  Bell   Labs       Paris   sleeps
    reference    B-PER   I-PER     O    B-ORG  I-ORG      B-LOC   O         3 entities
    predicted    B-PER   I-PER     O    B-ORG  O          B-PER   O         3, of which 1 is right

Invalid sequences of tags are read in one of two ways.  The default is the lenient one of conlleval
(Tjong Kim Sang and De Meulder 2003): an I- that continues no entity begins one, and the tags of
BIOES are read too.  Strict mode is IOB2: only B- begins an entity, only I- of the same type
continues it, and any other I- counts as O.

    tags         I-PER  I-PER  I-LOC  O  B-LOC  I-PER
    default      [PER        ] [LOC]     [LOC]  [PER]
    strict                               [LOC]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

TagLists = Sequence[Sequence[str]]


class Entity(NamedTuple):
    """An entity of this type: words `start` to `end` (exclusive) of a sentence."""

    type: str
    start: int
    end: int


def entities(tags: Sequence[str], strict: bool = False) -> list[Entity]:
    """The entities of one sentence, in order.

    >>> entities(["B-PER", "I-PER", "O", "I-LOC"])
    [Entity(type='PER', start=0, end=2), Entity(type='LOC', start=3, end=4)]
    >>> entities(["B-PER", "I-PER", "O", "I-LOC"], strict=True)
    [Entity(type='PER', start=0, end=2)]

    Raises `ValueError` for a tag with an unknown prefix; E- and S- are unknown in strict mode.
    """
    return [Entity(*span) for span in _spans(tags, strict)]


def _spans(tags: Sequence[str], strict: bool) -> list[tuple[str, int, int]]:
    """(type, start, end) of each entity, as tuples because they are faster to make."""
    prefixes = "BI" if strict else "BIES"
    found = []
    start, end, kind, before = 0, 0, "", ""  # the entity so far, if any; the prefix of its last tag
    for i in [i for i, tag in enumerate(tags) if tag != "O"]:  # most tags are O
        prefix, this = _parse(tags[i], prefixes)
        if i > end or this != kind or prefix not in "IE" or before in "ES":
            if kind:
                found.append((kind, start, end))
            start, kind = i, this if prefix == "B" or not strict else ""
        end, before = i + 1, prefix
    if kind:
        found.append((kind, start, end))
    return found


@lru_cache(maxsize=1 << 12)
def _parse(tag: str, prefixes: str) -> tuple[str, str]:
    """Split "B-PER" -> ("B", "PER"); "B" without a type has the type "_", as in seqeval."""
    prefix, this = tag[:1], tag[1:].removeprefix("-")
    if not prefix or prefix not in prefixes:
        raise ValueError(
            f"{tag!r} is not a tag; give O, or one of {', '.join(prefixes)} and a type"
        )
    return prefix, this or "_"


def entity_f1(predictions: TagLists, references: TagLists, strict: bool = False) -> dict[str, Any]:
    """Precision, recall and F1 over all entities together (micro), and of each type.

    Returns precision, recall, f1; macro_f1, the mean of the types' F1; per_type: type -> precision,
    recall, f1, support (number of true entities).  A quotient with denominator 0 is 0.  Equal to
    seqeval's numbers, and with `strict` to those of its strict IOB2.

    In the example, one of three true and one of three predicted entities is right.  PER is
    predicted twice and right once.

    >>> predicted = [["B-PER", "I-PER", "O", "B-ORG", "O"], ["B-PER", "O"]]
    >>> reference = [["B-PER", "I-PER", "O", "B-ORG", "I-ORG"], ["B-LOC", "O"]]
    >>> score = entity_f1(predicted, reference)
    >>> round(score["f1"], 4), score["per_type"]["PER"]["precision"]
    (0.3333, 0.5)
    """
    predicted_types: list[str] = []  # the type of each predicted entity
    true_types: list[str] = []
    right_types: list[str] = []
    for guess, gold in _sentences(predictions, references):
        ours = _spans(guess, strict)
        theirs = ours if guess == gold else _spans(gold, strict)
        right = ours if theirs is ours else set(ours) & set(theirs)
        predicted_types += [kind for kind, _, _ in ours]
        true_types += [kind for kind, _, _ in theirs]
        right_types += [kind for kind, _, _ in right]
    predicted, true, hits = Counter(predicted_types), Counter(true_types), Counter(right_types)
    per_type = {
        kind: {**_scores(hits[kind], predicted[kind], true[kind]), "support": true[kind]}
        for kind in sorted(predicted | true)
    }
    scores = _scores(hits.total(), predicted.total(), true.total())
    macro = sum(row["f1"] for row in per_type.values()) / max(1, len(per_type))
    return {**scores, "macro_f1": macro, "per_type": per_type}


def token_accuracy(predictions: TagLists, references: TagLists) -> float:
    """The share of words whose tag is right; it is high from the start, because most tags are O.

    >>> token_accuracy([["B-PER", "O", "O"]], [["B-PER", "O", "B-LOC"]])
    0.6666666666666666
    """
    pairs = [
        pair
        for guess, gold in _sentences(predictions, references)
        for pair in zip(guess, gold, strict=True)
    ]
    return sum(a == b for a, b in pairs) / max(1, len(pairs))


def entity_errors(predictions: TagLists, references: TagLists) -> dict[str, int]:
    """Count the entities by kind of error; tags are read in the default way.

    right           same words, same type
    wrong_type      same words, another type
    wrong_boundary  shares words with an entity of the same type
    wrong_both      shares words only with entities of another type
    missed          a true entity that shares no word with a predicted one
    invented        a predicted entity that shares no word with a true one

    All but `invented` count true entities, so that right + wrong_type + wrong_boundary + wrong_both
    + missed is the number of true entities.

    >>> predicted = [["B-PER", "I-PER", "O", "B-ORG", "O"], ["B-PER", "O"]]
    >>> reference = [["B-PER", "I-PER", "O", "B-ORG", "I-ORG"], ["B-LOC", "O"]]
    >>> {name: count for name, count in entity_errors(predicted, reference).items() if count}
    {'right': 1, 'wrong_type': 1, 'wrong_boundary': 1}
    """
    names = ("right", "wrong_type", "wrong_boundary", "wrong_both", "missed", "invented")
    counts = dict.fromkeys(names, 0)
    for guess, gold in _sentences(predictions, references):
        ours, theirs = entities(guess), entities(gold)
        for entity in theirs:
            counts[_error_kind(entity, [e for e in ours if _overlap(e, entity)])] += 1
        counts["invented"] += sum(not any(_overlap(e, t) for t in theirs) for e in ours)
    return counts


def _error_kind(true: Entity, others: Sequence[Entity]) -> str:
    """The kind of error of a true entity; others: predicted entities that share words with it."""
    if true in others:
        return "right"
    if any((e.start, e.end) == (true.start, true.end) for e in others):
        return "wrong_type"
    if any(e.type == true.type for e in others):
        return "wrong_boundary"
    return "wrong_both" if others else "missed"


def _overlap(a: Entity, b: Entity) -> bool:
    return a.start < b.end and b.start < a.end


def _scores(hits: int, predicted: int, true: int) -> dict[str, float]:
    return {
        "precision": hits / predicted if predicted else 0.0,
        "recall": hits / true if true else 0.0,
        "f1": 2 * hits / (predicted + true) if predicted + true else 0.0,
    }


def _sentences(
    predictions: TagLists, references: TagLists
) -> list[tuple[Sequence[str], Sequence[str]]]:
    """(predicted, true) tags of each sentence; `ValueError` for different lengths."""
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references; give one for each"
        )
    pairs = list(zip(predictions, references, strict=True))
    for i, (guess, gold) in enumerate(pairs):
        if isinstance(guess, str) or isinstance(gold, str):
            raise ValueError(f"sentence {i} is one string; give a list of tags for each sentence")
        if len(guess) != len(gold):
            raise ValueError(f"sentence {i} has {len(gold)} words but {len(guess)} predicted tags")
    return pairs
