"""Tagging schemes for entities, and their conversion to IOB2, the scheme that minift uses.

    word      Jordan   met     Ada     Lovelace   Paris
    iob1      I-PER    O       I-PER   I-PER      B-PER     B- only between entities of one type
    iob2      B-PER    O       B-PER   I-PER      B-PER     B- at every beginning
    bioes     S-PER    O       B-PER   E-PER      S-PER     E- at the end, S- for a single word
    brackets  (PER)    *       (PER*   *)         (PER)     OntoNotes, CoNLL-2012

iob1: Ramshaw and Marcus 1995; the scheme of CoNLL-2003.  bioes is also called IOBES; BILOU is the
same with L for E and U for S, which are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

SCHEMES = ("iob1", "iob2", "bioes", "brackets")
BRACKETS = re.compile(r"(?:\(([^()*]+))?\*?(\))?")
BILOU = {"L": "E", "U": "S"}


class TagError(ValueError):
    """An invalid tag, at word `index` of sentence `sentence`."""

    def __init__(self, message: str, index: int, sentence: int = 0):
        super().__init__(message)
        self.index, self.sentence = index, sentence


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """Detect the scheme of a whole file from all its tags.

    Brackets, and the letters E and S, occur in one scheme only.  Of the other two schemes, an I-
    that continues no entity indicates iob1, and a B- without a word of its type before it iob2.
    The more frequent one decides, because real files hold a few wrong tags (CoNLL-2003 two such
    B-).

    >>> detect_scheme([["I-PER", "I-PER", "O"], ["I-LOC"]])
    'iob1'
    >>> detect_scheme([["B-PER", "I-PER", "O"]])
    'iob2'

    Raises `TagError` for a tag of no scheme.
    """
    prefixes: set[str] = set()
    without_before = {"B": 0, "I": 0}  # tags of a word whose type differs from the word before it
    for number, tags in enumerate(sentences):
        before = ""
        for i, tag in enumerate(tags):
            if tag[:1] in ("(", "*"):
                return "brackets"
            try:
                prefix, kind = parse(tag)
            except ValueError as error:
                raise TagError(str(error), i, number) from None
            prefixes.add(prefix)
            if prefix in without_before and kind != before:
                without_before[prefix] += 1
            before = kind
    if prefixes & {"E", "S"}:
        return "bioes"
    return "iob1" if without_before["I"] > without_before["B"] else "iob2"


def parse(tag: str) -> tuple[str, str]:
    """Split a tag into prefix and type; ("O", "") for O.

    >>> parse("B-PER"), parse("U-PER"), parse("O")
    (('B', 'PER'), ('S', 'PER'), ('O', ''))
    """
    if tag == "O":
        return "O", ""
    prefix, dash, kind = tag.partition("-")
    prefix = BILOU.get(prefix, prefix)
    if prefix not in ("B", "I", "E", "S") or not dash or not kind:
        raise ValueError(
            f"{tag!r} is in no scheme that minift knows ({', '.join(SCHEMES)}); write O, or B-, "
            "I-, E- or S- and a type"
        )
    return prefix, kind


def to_iob2(tags: Sequence[str], scheme: str) -> list[str]:
    """Convert the tags of one sentence to IOB2; `TagError` for a tag not allowed at its place.

    >>> to_iob2(["I-PER", "O", "I-PER", "I-PER", "B-PER"], "iob1")
    ['B-PER', 'O', 'B-PER', 'I-PER', 'B-PER']
    >>> to_iob2(["(PER)", "*", "(PER*", "*)", "(PER)"], "brackets")
    ['B-PER', 'O', 'B-PER', 'I-PER', 'B-PER']
    """
    out: list[str] = []
    open_type = ""  # of the entity that the next word may (in bioes and brackets: must) continue
    for i, tag in enumerate(tags):
        try:
            if scheme == "brackets":
                kind, begins, ends = _bracket(tag, open_type)
            else:
                kind, begins, ends = _letter(tag, open_type, scheme)
        except ValueError as error:
            raise TagError(str(error), i) from None
        out.append(f"{'B' if begins else 'I'}-{kind}" if kind else "O")
        open_type = "" if ends else kind
    if open_type and scheme in ("bioes", "brackets"):
        raise TagError(
            f"the sentence ends inside {open_type} ({tags[-1]!r}); end it with "
            f"{'a closing bracket' if scheme == 'brackets' else f'E-{open_type}'}",
            len(tags) - 1,
        )
    return out


def _letter(tag: str, open_type: str, scheme: str) -> tuple[str, bool, bool]:
    """(type, begins here, ends here) of a tag with a prefix letter."""
    prefix, kind = parse(tag)
    continues = prefix in "IE" and bool(kind) and kind == open_type
    if scheme != "bioes" and prefix in "ES":
        raise ValueError(f"{tag!r} is not in {scheme}; give --scheme bioes if the file is in it")
    if scheme == "bioes" and (bool(open_type) or prefix in "IE") and not continues:
        must = f"I-{open_type} or E-{open_type}" if open_type else "B- or S- at the beginning"
        raise ValueError(f"{tag!r} is not allowed here in bioes; the word needs {must}")
    if scheme == "iob2" and prefix == "I" and not continues:
        raise ValueError(
            f"{tag!r} continues no entity, which iob2 does not allow; write {f'B-{kind}'!r}, or "
            "give --scheme iob1 if the whole file is in that"
        )
    ends = scheme == "bioes" and prefix in "ESO"
    return kind, prefix in "BS" or (prefix == "I" and not continues), ends


def _bracket(tag: str, open_type: str) -> tuple[str, bool, bool]:
    """(type, begins here, ends here) of a tag in brackets."""
    match = BRACKETS.fullmatch(tag)
    if match is None or not tag:
        raise ValueError(f"{tag!r} is not a tag in brackets; write (TYPE), (TYPE*, * or *)")
    begins, closes = match[1], match[2] is not None
    if begins and open_type:
        raise ValueError(f"{tag!r} begins inside {open_type}; entities cannot be nested")
    if closes and not begins and not open_type:
        raise ValueError(f"{tag!r} closes a bracket that was never opened; remove it")
    return begins or open_type, bool(begins), closes


def tag_names(types: Iterable[str]) -> tuple[str, ...]:
    """The IOB2 tags of some types, in the order of the logits: O first.

    >>> tag_names({"PER", "LOC"})
    ('O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER')
    """
    return ("O", *(f"{prefix}-{kind}" for kind in sorted(types) for prefix in "BI"))


def allowed_transitions(labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Whether each IOB2 tag may come first (C,), and may follow each other tag (C, C).

    may_follow[a, b]: whether tag b may follow tag a.

    >>> may_start, may_follow = allowed_transitions(["O", "B-PER", "I-PER"])
    >>> may_start.tolist(), may_follow.tolist()[0]
    ([True, True, False], [True, True, False])
    """
    may_start = np.array([not label.startswith("I-") for label in labels])
    may_follow = np.array(
        [[ok or (a != "O" and a[2:] == b[2:]) for b, ok in zip(labels, may_start, strict=True)]
         for a in labels]
    )  # fmt: skip
    return may_start, may_follow
