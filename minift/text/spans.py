"""Spans of a text: characters <-> tokens, and the best ones by their scores.

An answer is given by characters, a model reads tokens; offsets tie them together:

    context    The Norman dynasty had       answer "Norman dynasty", characters 4 to 18
    tokens     the norman dynasty had
    offsets    0-3 4-10   11-18   19-22     tokens 1 to 2: all that share a character with it

The way back takes the characters from the first token's beginning to the last one's end, out of the
original text, so that case, accents and spacing are those of the text.

A model gives each token a score to be the first of the answer and one to be the last; the score of
a span is the sum of both.  For a window of 4 tokens and spans of at most 3:

    begins at    as long as 1   2   3
    0                       .   .   .
    1                       .   .   .
    2                       .   .   -        "-": beyond the end
    3                       .   -   -

Dimensions: C tokens of the text (in a window), L tokens of the longest span.
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

    offsets: (C, 2) characters of each token, in their order.

    >>> offsets = np.array([[0, 3], [4, 10], [11, 18], [19, 22]])
    >>> token_span(offsets, 4, 18), token_span(offsets, 12, 13), token_span(offsets, 3, 4)
    ((1, 2), (2, 2), None)
    """
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else None


def span_characters(text: str, offsets: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """The characters (start, end) of tokens `first` to `last`, inclusive.

    Accents written as characters of their own (combining marks) have no token where the tokenizer
    takes accents away; they go with the letter before them.

    >>> text = "cafe\\u0301 noir"
    >>> span_characters(text, np.array([[0, 4], [6, 10]]), 0, 0)
    (0, 5)
    """
    start, end = int(offsets[first, 0]), int(offsets[last, 1])
    while end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return start, end


def best_spans(
    starts: np.ndarray, ends: np.ndarray, begin: tuple[int, int], longest: int, count: int
) -> list[Span]:
    """The `count` best spans of a window, best first; fewer, or none, if there are not so many.

    starts, ends: (C,) scores of each token to be the first or the last.
    begin: (from, to) the tokens that may be the first, `to` excluded: those that this window sees
        most around.
    longest: most tokens in a span.

    Among equals the earlier and then the shorter span comes first.

    >>> best_spans(np.array([0.0, 2.0, 1.0]), np.array([3.0, 0.0, 2.0]), (0, 3), 2, 2)
    [Span(score=4.0, first=1, last=2), Span(score=3.0, first=0, last=0)]
    """
    size = len(ends)
    if not size or begin[0] >= begin[1]:
        return []
    padded = np.concatenate([ends, np.full(longest - 1, -np.inf)])  # (C + L - 1,)
    reachable = np.lib.stride_tricks.sliding_window_view(padded, longest)  # (C, L)
    table = starts[begin[0] : begin[1], None] + reachable[begin[0] : begin[1]]  # (to - from, L)
    flat = np.where(np.isfinite(table), table, -np.inf).ravel()
    if count < len(flat):  # all as good as the count-th, so that equals stay in order
        bar = np.partition(flat, -count)[-count]
        chosen = np.flatnonzero(flat >= bar)
    else:
        chosen = np.arange(len(flat))
    chosen = chosen[np.isfinite(flat[chosen])]
    chosen = chosen[np.argsort(-flat[chosen], kind="stable")][:count]
    firsts, extra = begin[0] + chosen // longest, chosen % longest
    return [
        Span(float(flat[i]), int(first), int(first + more))
        for i, first, more in zip(chosen, firsts, extra, strict=True)
    ]
