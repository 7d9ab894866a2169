"""Parts of a stream of records, small enough for the memory whatever the records hold.

    stream   r0 r1 r2 r3 r4 r5 ...
    part     r0 r1 r2                  at most so many records, of at most so many characters
    preview  r0 r1 r2, and r0 r1 ...   the first part, and the whole stream

Prediction reads a file as such a stream.  Whatever needs several records, such as the scheme of the
tags, is decided from the first part; so is a shorter file as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, TypeVar

from minift.errors import UserError

T = TypeVar("T")

PART_RECORDS = 1024
PART_CHARACTERS = 1_000_000
MAX_CHARACTERS = 1_000_000  # of a text that is read in windows; its tokens and features take 400 MB


def part_of(records: Iterator[T]) -> Iterator[T]:
    """The next records, at least one if there is any: at most 1,024, and a million characters.

    The last one may exceed the number of characters, so a part may hold that many and one record.
    """
    size = 0
    for number, record in enumerate(records, start=1):
        yield record
        size += size_of(record)
        if number == PART_RECORDS or size >= PART_CHARACTERS:
            return


def preview(records: Iterable[T]) -> tuple[list[T], Iterator[T]]:
    """The first part of a stream, and the whole stream.

    >>> first, stream = preview("abc")
    >>> first, list(stream)
    (['a', 'b', 'c'], ['a', 'b', 'c'])
    """
    stream = iter(records)
    first = list(part_of(stream))
    return first, chain(first, stream)


def check_length(characters: int, where: str) -> None:
    """`UserError` for a text that is too long to be read in windows, all of which are held."""
    if characters > MAX_CHARACTERS:
        raise UserError(
            f"{where}: has more than {MAX_CHARACTERS:,} characters, which the model would read at "
            "once; divide the text"
        )


def size_of(record: Any) -> int:
    """The characters of all texts in a record; each value of a list counts as one more.

    >>> size_of({"text": "good", "extra": {"year": 1999, "tags": ["a", "bc"]}})
    9
    """
    size, values = 0, [record]
    while values:  # no recursion, because JSON may be nested deeply
        value = values.pop()
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, list | tuple):
            size += len(value)
            values += value
        elif isinstance(value, Mapping):
            values += value.values()
        elif hasattr(value, "__dict__"):
            values.append(vars(value))
    return size
