"""Plain text for pre-training: documents are streamed, their tokens go to one file, and blocks of
that file are read in any order.

    text files  one.txt  two.txt.xz  three.txt.gz      a blank line between documents
    tokens.bin  d0 d0 d0 </s> d1 d1 </s> d2 ...        two or four bytes a token
    blocks      [d0 d0 d0 </s>] [d1 d1 </s> d2] ...    of one size, shuffled in each epoch

The token file is memory-mapped, so a corpus may be larger than the memory.
"""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from minift.data.lines import read_lines
from minift.errors import UserError
from minift.files import open_regular, write_atomically

MAX_PARAGRAPH_BYTES = 100_000_000


def read_documents(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the documents of text files (.txt, .txt.gz, .txt.xz) with blank lines between them."""
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
        yield from (line for _, line in read_lines(path, max_line_bytes=MAX_PARAGRAPH_BYTES))
        return
    try:
        with (
            open_regular(path) as packed,
            lzma.open(packed, "rt", encoding="utf-8") as file,
        ):
            while line := file.readline(MAX_PARAGRAPH_BYTES + 1):
                if len(line) > MAX_PARAGRAPH_BYTES:
                    raise UserError(
                        f"{path}: a line has more than {MAX_PARAGRAPH_BYTES:,} characters; split it"
                    )
                yield line.rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8; convert it") from None
    except (lzma.LZMAError, EOFError, OSError) as error:
        raise UserError(
            f"{path}: damaged xz ({error}); download or compress the file again"
        ) from None


def token_dtype(vocab_size: int) -> np.dtype:
    """The little-endian integers of tokens.bin: two bytes a token suffice for most vocabularies."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def write_tokens(
    path: Path, documents: Iterable[Sequence[int]], end_token_id: int, vocab_size: int
) -> int:
    """Write the tokens of all documents, each followed by `end_token_id`; returns their number."""
    dtype = token_dtype(vocab_size)
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with open(temporary, "wb") as file:
            for ids in documents:
                file.write(np.array([*ids, end_token_id], dtype=dtype).tobytes())
                count += len(ids) + 1

    write_atomically(path, write)
    return count


@dataclass(frozen=True)
class TokenBlocks:
    """A token file cut into blocks of `block_size` tokens; an incomplete last block is dropped.

    The last `eval_blocks` blocks are held out for evaluation and never trained on.
    """

    path: Path
    vocab_size: int
    block_size: int
    eval_blocks: int = 0

    def __post_init__(self) -> None:
        if self.total - self.eval_blocks < 1:
            raise UserError(
                f"{self.path}: holds {self.total} blocks of {self.block_size} tokens, of which "
                f"{self.eval_blocks} are held out; give more text, or smaller values to "
                "pretrain.py --eval-blocks or pretrain.py --block-size"
            )

    @property
    def total(self) -> int:
        """Number of blocks, the held-out ones included."""
        tokens = os.path.getsize(self.path) // token_dtype(self.vocab_size).itemsize
        return tokens // self.block_size

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """(n, block_size) the blocks of these numbers."""
        size = self.block_size
        tokens = np.memmap(self.path, dtype=token_dtype(self.vocab_size), mode="r")
        return np.stack([tokens[i * size : (i + 1) * size] for i in numbers]).astype(np.int64)

    def batch(self, step: int, batch_size: int, seed: int) -> list[int]:
        """The block numbers of a training step, a function of (seed, step).

        Each block comes once in an epoch.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "tokens.bin")
        ...     _ = write_tokens(path, [range(99)], end_token_id=0, vocab_size=100)
        ...     blocks = TokenBlocks(path, vocab_size=100, block_size=10, eval_blocks=4)
        ...     sorted(sum((blocks.batch(step, 2, seed=0) for step in range(3)), []))
        [0, 1, 2, 3, 4, 5]
        """
        count = self.total - self.eval_blocks
        positions = range(step * batch_size, (step + 1) * batch_size)
        return [int(_order(count, seed, i // count)[i % count]) for i in positions]

    @property
    def eval_block_numbers(self) -> range:
        """The numbers of the held-out blocks."""
        return range(self.total - self.eval_blocks, self.total)


@lru_cache(maxsize=2)  # the blocks of one step may belong to two epochs
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
