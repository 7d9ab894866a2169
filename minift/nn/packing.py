"""Padding taken out of a batch and put back: `pack`, `Packing.unpad`, `Packing.pad`.

A batch arrives as (B, T) with a mask.  `pack` finds its real tokens, and the encoder computes on
those only, laid end to end.  The sequences are ordered by length.  Sequences of equal length are
therefore neighbours, and one `view`, without a copy, turns each group into an (n, L, ...) tensor:

    batch (B=4, T=4), 1 = real        packed (S=9), shortest first
      a: 1 1 1 1
      b: 1 1 0 0                        d   b b c c   a a a a
      c: 1 1 0 0                       `-' `-------' `-------'
      d: 1 0 0 0        length groups: (1, 1) (2, 2)  (1, 4)      each (n, L)

Every layer but attention treats tokens one by one and needs no change.  On a CPU, attention runs
once for each length group and needs no mask, because a group holds only real tokens:

    padded scores of b (T=4)          packed scores of b (L=2)
      x x . .                           x x
      x x . .    '.' = masked           x x
      . . . .
      . . . .

A GPU computes all groups in one variable-length kernel, where it has one (nn/kernels.py).  With a
bias from `masked_bias` (nn/attention.py) the batch is padded for attention.

Dimensions: B batch, T width of the padded batch, S real tokens in the batch, n sequences in a
length group, L their length, F sequences that are not empty, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the real tokens of a (B, T) batch are after packing.

    index: (S,) position b * T + t of each packed token in the flattened batch.
    order: (B,) the row of the batch that each packed sequence comes from, shortest first.
    lengths: the B lengths in that order (a row without real tokens has length 0).
    batch_size, padded_length: B, T.
    """

    index: Tensor
    order: Tensor
    lengths: tuple[int, ...]
    batch_size: int
    padded_length: int

    @property
    def length_groups(self) -> list[tuple[int, int]]:
        """(n, L) of each group of equally long sequences; the products n * L sum to S."""
        return [(len(list(same)), length) for length, same in groupby(self.lengths) if length]

    @cached_property
    def has_gaps(self) -> bool:
        """Whether some row has padding between two of its real tokens."""
        steps = self.index.diff()
        ends = list(accumulate(length for length in self.lengths if length))[:-1]
        steps[[end - 1 for end in ends]] = 1  # from one row to the next
        return bool((steps != 1).any())

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """(F + 1,) int32, cumulative lengths: where each sequence begins, and S at the end."""
        lengths = [length for length in self.lengths if length]
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return ends.to(self.index.device, non_blocking=True)

    @property
    def positions(self) -> Tensor:
        """(S,) the column t of each packed token: BERT's position id."""
        return self.index % self.padded_length

    def unpad(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (S, ...): keep only the real tokens."""
        return x.flatten(0, 1).index_select(0, self.index)

    def pad(self, x: Tensor) -> Tensor:
        """(S, ...) -> (B, T, ...), zero at padding."""
        flat = x.new_zeros(self.batch_size * self.padded_length, *x.shape[1:])
        padded = flat.index_copy(0, self.index, x)
        return padded.unflatten(0, (self.batch_size, self.padded_length))

    def split_by_length(self, x: Tensor, cls_only: bool = False) -> list[Tensor]:
        """(S, ...) -> a view (n, L, ...) of each length group.

        cls_only: x has one token for each sequence, (F, ...); the views are (n, 1, ...).
        """
        groups = [(n, 1) for n, _ in self.length_groups] if cls_only else self.length_groups
        parts = zip(x.split([n * length for n, length in groups]), groups, strict=True)
        return [part.unflatten(0, group) for part, group in parts]

    def cls_tokens(self, x: Tensor) -> Tensor:
        """(S, ...) -> (F, ...), the first token ([CLS]) of each sequence that is not empty."""
        return x.index_select(0, self.cu_seqlens[:-1])

    def mean_pool(self, x: Tensor) -> Tensor:
        """(S, H) -> (F, H), the mean over the tokens of each sequence that is not empty."""
        return torch.cat([x[:0], *(part.mean(1) for part in self.split_by_length(x))])

    def unsort(self, pooled: Tensor) -> Tensor:
        """(F, H), shortest sequence first -> (B, H) in the order of the batch.

        A row without real tokens gets zeros.
        """
        empty = pooled.new_zeros(self.lengths.count(0), *pooled.shape[1:])
        return torch.cat([empty, pooled]).index_select(0, torch.argsort(self.order))


def pack(attention_mask: Tensor) -> Packing:
    """Find the real tokens of a batch.

    attention_mask: (B, T), 1 = real.  Padding may be on the right, on the left or in between.
    Raises `ValueError` unless the mask has two dimensions.

    >>> packing = pack(torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0]]))
    >>> packing.lengths, packing.index.tolist(), packing.length_groups
    ((1, 1, 3), [3, 7, 0, 1, 2], [(2, 1), (1, 3)])
    """
    if attention_mask.dim() != 2:
        shape = tuple(attention_mask.shape)
        raise ValueError(f"the attention mask must be (batch, tokens), not {shape}")
    mask = attention_mask.bool()
    lengths, order = mask.sum(1).sort(stable=True)
    row, column = mask[order].nonzero(as_tuple=True)
    index = order[row] * mask.shape[1] + column
    return Packing(index, order, tuple(lengths.tolist()), *mask.shape)
