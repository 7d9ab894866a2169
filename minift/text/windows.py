"""Texts longer than the model: truncation, or overlapping windows.

tokens      0 1 2 3 4 5 6 7 8 9      size 6, doc stride 2
head        0 1 2 3 4 5
head+tail   0 1 6 7 8 9              a quarter of the tokens from the head
windows    [. . . . . .]
                   [. . . . . .]

Reference: Sun et al. 2019, "How to fine-tune BERT for text classification".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

Truncation = Literal["head", "head+tail", "windows"]


def windows(length: int, size: int, doc_stride: int) -> list[tuple[int, int]]:
    """(start, end) of each window over `length` tokens; every token is in at least one.

    doc_stride: overlap of neighbouring windows, in tokens, as `stride` in `transformers`' fast
        tokenizers.  In google-research/bert, doc_stride is the step from one window to the next.
    The last window is moved back so that it is full, which can make its overlap larger.
    Raises `ValueError` unless doc_stride is below `size`, because the windows would not advance.

    >>> windows(10, size=6, doc_stride=2)
    [(0, 6), (4, 10)]
    >>> windows(11, size=6, doc_stride=2)
    [(0, 6), (4, 10), (5, 11)]
    >>> windows(3, size=6, doc_stride=2)
    [(0, 3)]
    """
    if not 0 <= doc_stride < size:
        raise ValueError(
            f"doc_stride is {doc_stride}; it must be from 0 to {size - 1} (window size - 1)"
        )
    last = max(0, length - size)
    starts = [*range(0, last, size - doc_stride), last]
    return [(start, min(start + size, length)) for start in starts]


def truncate_pair(first: int, second: int, max_tokens: int) -> tuple[int, int]:
    """How many tokens each text of a pair keeps; the longer one is truncated first.

    >>> truncate_pair(10, 3, max_tokens=9)
    (6, 3)
    >>> truncate_pair(10, 8, max_tokens=9)
    (5, 4)
    """
    if first + second <= max_tokens:
        return first, second
    short = min(first, second, max_tokens // 2)
    return (max_tokens - short, short) if first > second else (short, max_tokens - short)


def head_and_tail(ids: list[int], max_tokens: int) -> list[int]:
    """The first quarter of `max_tokens` from the head of a text, the rest from its tail.

    >>> head_and_tail([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], max_tokens=6)
    [0, 1, 6, 7, 8, 9]
    """
    if len(ids) <= max_tokens:
        return ids
    head = math.ceil(max_tokens / 4)
    return ids[:head] + ids[len(ids) - (max_tokens - head) :]


def truncate_or_window(
    first: list[int], second: list[int] | None, max_tokens: int, truncation: Truncation
) -> list[tuple[list[int], list[int] | None]]:
    """Fit a text or a pair into `max_tokens`: one truncated pair, or one for each window.

    The windows of a pair move over its longer text; each includes the truncated shorter one.
    Neighbouring windows share a quarter of their size, rounded down.

    >>> truncate_or_window([0, 1, 2, 3, 4, 5], [6], max_tokens=5, truncation="windows")
    [([0, 1, 2, 3], [6]), ([2, 3, 4, 5], [6])]
    """
    a, b = truncate_pair(len(first), len(second or []), max_tokens)
    if truncation == "head+tail":
        return [(head_and_tail(first, a), None if second is None else head_and_tail(second, b))]
    short = first[:a], None if second is None else second[:b]
    if truncation == "head":
        return [short]
    if second is None or len(first) > len(second):
        return [(first[s:e], short[1]) for s, e in windows(len(first), a or 1, a // 4)]
    return [(short[0], second[s:e]) for s, e in windows(len(second), b or 1, b // 4)]


def best_window(spans: Sequence[tuple[int, int]], bounds: Sequence[tuple[int, int]]) -> list[int]:
    """For each span of tokens, the index of the window with the most context around it.

    bounds: (start, end) of the windows.  The context of a span in a window is the smaller of the
    tokens before and after it.  Among equals the earlier window wins.  A span longer than a window
    goes to one that holds its beginning.

    tokens     0 1 2 3 4 5 6 7 8 9
    window 0  [. . . . . .]             token 4: 1 after it in window 0, none before it in window 1
    window 1          [. . . . . .]     token 5: none after it in window 0, 1 before it in window 1

    >>> best_window([(0, 1), (4, 5), (5, 6), (9, 10)], [(0, 6), (4, 10)])
    [0, 0, 1, 1]
    """
    chosen = []
    window = 0
    for start, end in spans:
        # Spans are in order, so a window that ends before this span is never needed again.
        while window + 1 < len(bounds) and bounds[window][1] <= start:
            window += 1
        best, best_context = window, None
        for i in range(window, len(bounds)):
            first, last = bounds[i]
            if first > start:
                break
            context = min(start - first, last - end)
            if best_context is None or context > best_context:
                best, best_context = i, context
        chosen.append(best)
    return chosen


def window_cores(bounds: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, end) of the tokens with the most context in each window: `best_window` of all tokens.

    In windows of one size, a token has the most context in the window whose middle is nearest.  So
    each window's core is one range of tokens, and the cores lie end to end.

    >>> window_cores([(0, 6), (4, 10)])
    [(0, 5), (5, 10)]
    """
    cuts = [(end + start + 1) // 2 for (_, end), (start, _) in pairwise(bounds)]
    return list(zip([bounds[0][0], *cuts], [*cuts, bounds[-1][1]], strict=True))
