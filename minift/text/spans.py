"""Spans of a text: characters <-> tokens, and the spans with the best scores.

An answer is given in characters, and a model reads tokens.  Offsets map one to the other:

    context    The Norman dynasty had       answer "Norman dynasty", characters 4 to 18
    tokens     the norman dynasty had
    offsets    0-3 4-10   11-18   19-22     tokens 1 to 2: all that share a character with it

In the other direction, the answer is the part of the original text from the start of the first
token to the end of the last one, so its case, accents and spacing are those of the text.

A model gives each token a score to be the first of the answer, and a score to be the last.  The
score of a span is the sum of both (Devlin et al. 2018, BERT).  The spans of at most 3 tokens in a
window of 4 tokens:

    first token    length 1   2   3
    0                     .   .   .
    1                     .   .   .
    2                     .   .   -        "-": beyond the end of the window
    3                     .   -   -

Neighbouring windows of a long text share tokens, so several windows may hold a span.  It is read in
the one in whose core it begins, where its first token has the most context (windows.py).  If that
window ends before the span does, it is read in the next window that holds it whole:

    tokens     0 1 2 3 4 5 6 7 8 9
    window 0  [0 1 2 3 4|5]            "|" ends or begins a core
    window 1          [4|5 6 7 8 9]    reads the spans that begin at 5, ... 9, and 4-6, 4-7, ...

Dimensions: C tokens of the text in a window, L tokens of the longest span.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """Tokens `first` to `last`, inclusive, and their score."""

    score: float
    first: int
    last: int


def token_span(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """The tokens (first, last) that share a character with `start` to `end`; None if none does.

    offsets: (C, 2) start and end of each token in characters, in order.

    >>> offsets = np.array([[0, 3], [4, 10], [11, 18], [19, 22]])
    >>> token_span(offsets, 4, 18), token_span(offsets, 12, 13), token_span(offsets, 3, 4)
    ((1, 2), (2, 2), None)
    """
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else None


def span_characters(text: str, offsets: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """The characters (start, end) of tokens `first` to `last`, inclusive.

    Accents written as separate characters (combining marks) have no token if the tokenizer strips
    accents; they belong to the letter before them.

    >>> text = "cafe\\u0301 noir"
    >>> span_characters(text, np.array([[0, 4], [6, 10]]), 0, 0)
    (0, 5)
    """
    start, end = int(offsets[first, 0]), int(offsets[last, 1])
    while end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return start, end


def best_spans(
    starts: np.ndarray,
    ends: np.ndarray,
    core: tuple[int, int],
    new_from: int,
    max_length: int,
    count: int,
) -> list[Span]:
    """The `count` best spans of a window, best first; fewer if the window has fewer.

    starts, ends: (C,) scores of each token to be the first or the last of the span.
    core: (from, to) the window's core, `to` excluded; no span begins after it.
    new_from: the first token that the window before lacks.  A span that begins before the core has
        its last token there or later; the window before holds the others.
    max_length: maximum number of tokens of a span.

    Of spans with equal scores, the earlier and then the shorter one comes first.

    >>> best_spans(np.array([0.0, 2.0, 1.0]), np.array([3.0, 0.0, 2.0]), (0, 3), 0, 2, 2)
    [Span(score=4.0, first=1, last=2), Span(score=3.0, first=0, last=0)]
    """
    if not len(ends) or not core[1]:
        return []
    padded = np.concatenate([ends, np.full(max_length - 1, -np.inf)])  # (C + L - 1,)
    reachable = np.lib.stride_tricks.sliding_window_view(padded, max_length)  # (C, L)
    table = starts[: core[1], None] + reachable[: core[1]]  # (to, L)
    firsts, extra = np.ogrid[: core[1], :max_length]  # (to, 1), (1, L)
    table[(firsts < core[0]) & (firsts + extra < new_from)] = -np.inf
    flat = np.where(np.isfinite(table), table, -np.inf).ravel()
    if count < len(flat):  # all that are as good as the count-th one, so that ties stay in order
        worst = np.partition(flat, -count)[-count]
        chosen = np.flatnonzero(flat >= worst)
    else:
        chosen = np.arange(len(flat))
    chosen = chosen[np.isfinite(flat[chosen])]
    chosen = chosen[np.argsort(-flat[chosen], kind="stable")][:count]
    return [
        Span(float(flat[i]), int(i // max_length), int(i // max_length + i % max_length))
        for i in chosen
    ]
