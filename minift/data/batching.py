"""Batches of records of similar length, and padding.

A batch holds texts of similar length, so that little of its (B, T) ids is padding.  The batches of
an epoch are a pure function of (seed, epoch), so two integers are enough to resume a run in the
middle of an epoch: the epoch, and the number of its batches already used.

Dimensions: B texts in a batch, T tokens of its longest text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")

IGNORE_INDEX = -100  # the label that losses ignore, as torch and `transformers` do

POOL = 50  # batches sorted by length together: little padding, and a random mixture all the same


def training_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, by_length: bool = True
) -> list[list[int]]:
    """The batches of one epoch, as lists of indices; every index occurs exactly once.

    The indices are shuffled, divided into pools of 50 batches, sorted by length within each pool
    and divided into batches, which are then shuffled.  The batch with the longest text comes first,
    so that a batch size too large for the memory fails at once.  `by_length=False` only shuffles.

    >>> training_batches([3, 9, 4, 8], batch_size=2, seed=0, epoch=0)
    [[1, 3], [2, 0]]
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    if not by_length:
        return chunks(order, batch_size)
    pools = chunks(order, batch_size * POOL)
    pools = [sorted(pool, key=lambda i: lengths[i], reverse=True) for pool in pools]
    batches = [batch for pool in pools for batch in chunks(pool, batch_size)]
    batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
    longest = max(range(len(batches)), key=lambda i: lengths[batches[i][0]], default=0)
    return [*batches[longest : longest + 1], *batches[:longest], *batches[longest + 1 :]]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches for inference, longest texts first: the least padding possible.

    >>> sorted_batches([3, 9, 4, 8], batch_size=2)
    [[1, 3], [2, 0]]
    """
    return chunks(sorted(range(len(lengths)), key=lambda i: -lengths[i]), batch_size)


def chunks(items: Sequence[T], size: int) -> list[list[T]]:
    """Consecutive parts of at most `size` items.

    >>> chunks([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    return [list(items[i : i + size]) for i in range(0, len(items), size)]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive parts of at most `size` items of a stream, read only as needed.

    >>> list(batched(iter([1, 2, 3]), 2))
    [[1, 2], [3]]
    """
    stream = iter(items)
    while part := list(islice(stream, size)):
        yield part


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Lists of different lengths -> (B, T), padded with `value` on the right.

    >>> pad([[1, 2], [3]], 0).tolist()
    [[1, 2], [3, 0]]
    """
    width = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
