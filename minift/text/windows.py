"""A text that is longer than the model becomes several windows that overlap.

tokens   0 1 2 3 4 5 6 7 8 9      size 6, overlap 2
window   [. . . . . .]
                 [. . . . . .]
"""

from __future__ import annotations


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
