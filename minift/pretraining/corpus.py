"""Plain text for pre-training: documents stream in, their tokens lie in one file, chunks of it are
read in any order.

    shards      one.txt  two.txt.xz  three.txt.gz      documents between blank lines
    tokens.bin  d0 d0 d0 </s> d1 d1 </s> d2 ...        two or four bytes a token
    chunks      [d0 d0 d0 </s>] [d1 d1 </s> d2] ...    of one size, in an order for each epoch

The file is read through the operating system's cache (memory mapping), so a corpus may be larger
than the memory.
"""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from minift.data.read import read_lines
from minift.errors import InputError
from minift.files import write_atomically

LONGEST_PARAGRAPH = 100_000_000  # bytes


def read_documents(paths: Sequence[Path]) -> Iterator[str]:
    """The documents of text files, one by one: .txt, .txt.gz or .txt.xz, blank lines between."""
    for path in paths:
        lines: list[str] = []
        for line in _lines(path):
            if line.strip():
                lines.append(line)
            elif lines:
                yield "\n".join(lines)
                lines = []
        if lines:
            yield "\n".join(lines)


def _lines(path: Path) -> Iterator[str]:
    if not path.name.lower().endswith(".xz"):
        yield from (line for _, line in read_lines(path, longest=LONGEST_PARAGRAPH))
        return
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8; convert it") from None
    except (lzma.LZMAError, EOFError, OSError) as error:
        raise InputError(f"{path}: damaged xz ({error}); fetch or pack it again") from None


def kind_of_token(vocabulary: int) -> np.dtype:
    """Two bytes suffice for most vocabularies."""
    return np.dtype("<u2" if vocabulary <= 2**16 else "<u4")


def write_tokens(path: Path, documents: Iterable[Sequence[int]], eos: int, vocabulary: int) -> int:
    """Write the tokens of all documents, `eos` behind each; returns their number."""
    kind = kind_of_token(vocabulary)
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with open(temporary, "wb") as file:
            for ids in documents:
                file.write(np.array([*ids, eos], dtype=kind).tobytes())
                count += len(ids) + 1

    write_atomically(path, write)
    return count


@dataclass(frozen=True)
class Chunks:
    """A file of tokens cut into pieces of `size`; what is left at the end is not used.

    The last `held_out` chunks are never trained on.
    """

    path: Path
    vocabulary: int
    size: int
    held_out: int = 0

    def __post_init__(self) -> None:
        if self.total - self.held_out < 1:
            raise InputError(
                f"{self.path}: holds {self.total} chunks of {self.size} tokens, of which "
                f"{self.held_out} are held out; give more text, or shorter chunks"
            )

    @property
    def total(self) -> int:
        return os.path.getsize(self.path) // kind_of_token(self.vocabulary).itemsize // self.size

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """(n, size) the chunks of these numbers."""
        kind = kind_of_token(self.vocabulary)
        tokens = np.memmap(self.path, dtype=kind, mode="r")
        return np.stack([tokens[i * self.size : (i + 1) * self.size] for i in numbers]).astype(
            np.int64
        )

    def batch(self, step: int, batch_size: int, seed: int) -> list[int]:
        """The chunks of a training step, a function of (seed, step): each once in an epoch.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "tokens.bin")
        ...     _ = write_tokens(path, [range(99)], eos=0, vocabulary=100)
        ...     chunks = Chunks(path, vocabulary=100, size=10, held_out=4)
        ...     sorted(sum((chunks.batch(step, 2, seed=0) for step in range(3)), []))
        [0, 1, 2, 3, 4, 5]
        """
        count = self.total - self.held_out
        places = range(step * batch_size, (step + 1) * batch_size)
        return [int(_order(count, seed, place // count)[place % count]) for place in places]

    @property
    def held(self) -> range:
        """The numbers of the held-out chunks."""
        return range(self.total - self.held_out, self.total)


@lru_cache(maxsize=2)  # a step may touch two epochs; the next one asks for the same again
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
