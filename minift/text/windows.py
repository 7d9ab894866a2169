"""A text that is longer than the model: cut, or several windows that overlap.

tokens      0 1 2 3 4 5 6 7 8 9      size 6, overlap 2
head        0 1 2 3 4 5
head+tail   0 1 6 7 8 9              a quarter of the room for the head
windows     [. . . . . .]
                    [. . . . . .]

Reference: Sun et al. 2019, "How to fine-tune BERT for text classification".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

LongText = Literal["head", "head+tail", "windows"]


def windows(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """(start, end) of each window over `length` tokens; every token is in at least one.

    Neighbours share at least `overlap` tokens; the last window is moved back so that it is full.
    `overlap` must be smaller than `size`, else the windows would not advance: `ValueError`.

    >>> windows(10, size=6, overlap=2)
    [(0, 6), (4, 10)]
    >>> windows(11, size=6, overlap=2)
    [(0, 6), (4, 10), (5, 11)]
    >>> windows(3, size=6, overlap=2)
    [(0, 3)]
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap is {overlap}; it must be from 0 to {size - 1} (window size - 1)")
    last = max(0, length - size)
    starts = [*range(0, last, size - overlap), last]
    return [(start, min(start + size, length)) for start in starts]


def shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens each text of a pair keeps when both share `room`: the longer loses first.

    >>> shares(10, 3, room=9)
    (6, 3)
    >>> shares(10, 8, room=9)
    (5, 4)
    """
    if first + second <= room:
        return first, second
    short = min(first, second, room // 2)
    return (room - short, short) if first > second else (short, room - short)


def head_and_tail(ids: list[int], room: int) -> list[int]:
    """The beginning and, in three quarters of the room, the end of a text.

    >>> head_and_tail([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], room=6)
    [0, 1, 6, 7, 8, 9]
    """
    if len(ids) <= room:
        return ids
    front = math.ceil(room / 4)
    return ids[:front] + ids[len(ids) - (room - front) :]


def fitted(
    first: list[int], second: list[int] | None, room: int, how: LongText
) -> list[tuple[list[int], list[int] | None]]:
    """What fits into `room` of a text or a pair of texts: one part, or one for each window.

    Windows of a pair move over its longer text, beside the shorter one.

    >>> fitted([0, 1, 2, 3, 4, 5], [6], room=5, how="windows")
    [([0, 1, 2, 3], [6]), ([2, 3, 4, 5], [6])]
    """
    a, b = shares(len(first), len(second or []), room)
    if how == "head+tail":
        return [(head_and_tail(first, a), None if second is None else head_and_tail(second, b))]
    short = first[:a], None if second is None else second[:b]
    if how == "head":
        return [short]
    if second is None or len(first) > len(second):
        return [(first[s:e], short[1]) for s, e in windows(len(first), a or 1, a // 4)]
    return [(short[0], second[s:e]) for s, e in windows(len(second), b or 1, b // 4)]


def owners(spans: Sequence[tuple[int, int]], parts: Sequence[tuple[int, int]]) -> list[int]:
    """For each span of tokens, the number of the window that sees most around it.

    What a window sees around a span is the smaller of the tokens before and after it.  Among equals
    the earlier window wins.  A span longer than a window goes to one that holds its beginning.

    tokens     0 1 2 3 4 5 6 7 8 9
    window 0  [. . . . . .]             token 4: 1 after it in window 0, none before it in window 1
    window 1          [. . . . . .]     token 5: none after it in window 0, 1 before it in window 1

    >>> owners([(0, 1), (4, 5), (5, 6), (9, 10)], [(0, 6), (4, 10)])
    [0, 0, 1, 1]
    """
    found = []
    window = 0
    for start, end in spans:
        # Windows are in order: those that end before this span begins never matter again.
        while window + 1 < len(parts) and parts[window][1] <= start:
            window += 1
        best, most = window, None
        for i in range(window, len(parts)):
            first, last = parts[i]
            if first > start:
                break
            context = min(start - first, last - end)
            if most is None or context > most:
                best, most = i, context
        found.append(best)
    return found


def own_ranges(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, end) of the tokens that each window sees most around: `owners` of all tokens at once.

    Windows of one size see most around what is nearest to their middle, so each owns one run of
    tokens, and the runs lie end to end.

    >>> own_ranges([(0, 6), (4, 10)])
    [(0, 5), (5, 10)]
    """
    cuts = [(end + start + 1) // 2 for (_, end), (start, _) in pairwise(parts)]
    return list(zip([parts[0][0], *cuts], [*cuts, parts[-1][1]], strict=True))
