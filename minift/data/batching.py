"""Batches of records of similar length, padding, and progress bars.

A batch holds texts of similar length, so that little of its (B, T) ids is padding.  The batches of
an epoch are a pure function of (seed, epoch), so two integers are enough to resume a run in the
middle of an epoch: the epoch, and the number of its batches already used.

Dimensions: B texts in a batch, T tokens of its longest text.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch

T = TypeVar("T")

IGNORE_INDEX = -100  # the label that losses ignore, as torch and `transformers` do

LINE_SECONDS = 60.0  # between two lines of progress where there is no terminal

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


def progress_bar(
    items: Iterable[T], label: str, total: int | None = None, start: int = 0
) -> Iterator[T]:
    """Yield the items and show the progress on stderr; see `ProgressBar`."""
    return ProgressBar(label, total, start).over(items)


class ProgressBar:
    """How far something has come: a bar in a terminal, elsewhere a line a minute on stderr."""

    def __init__(self, label: str, total: int | None = None, start: int = 0):
        """total: items in all, None if it is not known; start: items that were done before."""
        self.label, self.total, self.start = label, total, start
        self.shown = ""  # after the bar, such as the loss
        self.bar: Any = None  # tqdm's

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items and show the progress."""
        if sys.stderr.isatty():
            # Imported here because only a terminal needs it; huggingface-hub installs it.
            from tqdm import tqdm

            with tqdm(desc=self.label, total=self.total, initial=self.start, leave=False) as bar:
                self.bar = bar
                for item in items:
                    yield item
                    bar.update()
            return
        began = last = time.monotonic()
        for done, item in enumerate(items):
            if (now := time.monotonic()) - last >= LINE_SECONDS:
                seconds = (now - began) / max(1, done)
                print(self._line(self.start + done, seconds), file=sys.stderr)
                last = now
            yield item

    def note(self, text: str) -> None:
        """Show a text after the bar."""
        self.shown = text
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)

    def _line(self, done: int, seconds: float) -> str:
        """seconds: for each item so far."""
        of = f" of {self.total}, {_clock(seconds * (self.total - done))} left" if self.total else ""
        return f"{self.label}  {done}{of}" + (f"  {self.shown}" if self.shown else "")


def _clock(seconds: float) -> str:
    """
    >>> _clock(59.6), _clock(3725)
    ('1:00', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def print_line(text: str, to_stderr: bool = False) -> None:
    """Print a line on stdout, or on stderr, above a progress bar if there is one."""
    file = sys.stderr if to_stderr else sys.stdout
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(text, file=file)
        file.flush()
    else:
        print(text, file=file, flush=True)
