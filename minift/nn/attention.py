"""Attention over sequences of different lengths, laid end to end with no padding between them.

A batch arrives as (B, T) with a mask; `pack` finds its real tokens and the encoder works on those
alone.  The sequences are laid in order of length, so that those of equal length stand next to each
other and one `view`, without a copy, turns such a run into an ordinary (n, L, ...) tensor:

    batch (B=4, T=4), 1 = real        packed (S=9), shortest first
      a: 1 1 1 1
      b: 1 1 0 0                        d   b b c c   a a a a
      c: 1 1 0 0                       `-' `-------' `-------'
      d: 1 0 0 0                 runs: (1, 1) (2, 2)  (1, 4)      each (n, L)

Every layer but attention treats tokens one by one and never notices.  Attention runs once for each
run of equal lengths and needs no mask, because a run holds nothing but real tokens:

    padded scores of b (T=4)          packed scores of b (L=2)
      x x . .                           x x
      x x . .    '.' = masked           x x
      . . . .
      . . . .

Dimensions: B batch, T width of the padded batch, S real tokens in it, n sequences in a run, L their
length, F sequences that are not empty, N heads, D head width, H = N * D.

Reference: Vaswani et al. 2017, "Attention is all you need" (scaled dot-product attention).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from minift.nn.layers import drop

# Added to the score of a token that must not be seen: a number that half precision can hold, and
# not -inf, which would leave a row that sees nothing without a softmax.
LOWEST = torch.finfo(torch.bfloat16).min


@dataclass(frozen=True)
class Packing:
    """Where the real tokens of a (B, T) batch stand once laid end to end.

    index: (S,) place b * T + t of each packed token in the flattened batch.
    order: (B,) the row of the batch that each packed sequence is, shortest first.
    lengths: B lengths in that order (a row without real tokens has length 0).
    """

    index: Tensor
    order: Tensor
    lengths: tuple[int, ...]
    batch: int
    width: int

    @property
    def runs(self) -> list[tuple[int, int]]:
        """(n, L) for each run of equally long sequences; their n * L sum to S."""
        return [(len(list(same)), length) for length, same in groupby(self.lengths) if length]

    @cached_property
    def has_holes(self) -> bool:
        """Whether the tokens of some row do not stand side by side in the batch."""
        steps = self.index.diff()
        ends = list(accumulate(length for length in self.lengths if length))[:-1]
        steps[[end - 1 for end in ends]] = 1  # from one row to the next
        return bool((steps != 1).any())

    @cached_property
    def starts(self) -> Tensor:
        """(n + 1,) where each sequence that is not empty begins, and where the last one ends."""
        lengths = [length for length in self.lengths if length]
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return ends.to(self.index.device, non_blocking=True)

    @property
    def columns(self) -> Tensor:
        """(S,) the column t of each packed token, which is its position in BERT's sense."""
        return self.index % self.width

    def take(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (S, ...), the real tokens alone."""
        return x.flatten(0, 1).index_select(0, self.index)

    def pad(self, x: Tensor) -> Tensor:
        """(S, ...) -> (B, T, ...), zero where there is no token."""
        flat = x.new_zeros(self.batch * self.width, *x.shape[1:])
        return flat.index_copy(0, self.index, x).unflatten(0, (self.batch, self.width))

    def split(self, x: Tensor, firsts: bool = False) -> list[Tensor]:
        """(S, ...) -> one view (n, L, ...) for each run; of `firsts`, (n, 1, ...)."""
        runs = [(n, 1) for n, _ in self.runs] if firsts else self.runs
        parts = zip(x.split([n * length for n, length in runs]), runs, strict=True)
        return [part.unflatten(0, run) for part, run in parts]

    def firsts(self, x: Tensor) -> Tensor:
        """(S, ...) -> (F, ...), the first token ([CLS]) of each sequence that is not empty."""
        return x.index_select(0, self.starts[:-1])

    def means(self, x: Tensor) -> Tensor:
        """(S, H) -> (F, H), the mean over the tokens of each sequence that is not empty."""
        return torch.cat([x[:0], *(part.mean(1) for part in self.split(x))])

    def rows(self, vectors: Tensor) -> Tensor:
        """A vector for each sequence that is not empty, (F, H) -> (B, H) in the order of the batch,
        zeros for an empty row."""
        empty = vectors.new_zeros(self.lengths.count(0), *vectors.shape[1:])
        return torch.cat([empty, vectors]).index_select(0, torch.argsort(self.order))


def pack(mask: Tensor) -> Packing:
    """Find the real tokens of a batch.

    mask: (B, T), 1 = real.  Any pattern will do: padding right, left, or holes in between.

    >>> packing = pack(torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0]]))
    >>> packing.lengths, packing.index.tolist(), packing.runs
    ((1, 1, 3), [3, 7, 0, 1, 2], [(2, 1), (1, 3)])
    """
    if mask.dim() != 2:
        raise ValueError(f"the attention mask must be (batch, tokens), not {tuple(mask.shape)}")
    mask = mask.bool()
    lengths, order = mask.sum(1).sort(stable=True)
    row, column = mask[order].nonzero(as_tuple=True)
    index = order[row] * mask.shape[1] + column
    return Packing(index, order, tuple(lengths.tolist()), *mask.shape)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packing: Packing,
    *,
    dropout: float = 0.0,
    fused: bool = True,
    scale: float | None = None,
    bias: Tensor | None = None,
    firsts: bool = False,
) -> Tensor:
    """Each token looks at every token of its own sequence.

    q, k, v: (S, N, D) packed.  Returns (S, N, D).  `dropout` falls on the attention weights.
    `fused` leaves the arithmetic to torch's kernels; without it the formula stands in plain sight
    and the result is the same up to rounding.
    scale: what scores are multiplied by; None: 1 / sqrt(D).
    bias: (N, T, T), added to the scores; it depends on nothing but the distance of two tokens, so
        that of a sequence of length L is its corner (N, L, L).  Or (B, N, T, T), as `barred` makes
        it: then the batch is padded for attention.
    firsts: only the first token of each sequence looks: q is (F, N, D), as `Packing.firsts` takes
        it, and so is what is returned; without a bias.
    """
    if bias is not None and bias.dim() == 4:
        batch = (packing.pad(x).transpose(1, 2) for x in (q, k, v))  # (B, N, T, D) each
        mixed = attend_padded(*batch, bias, dropout=dropout, fused=fused, scale=scale)
        return packing.take(mixed.transpose(1, 2))
    if fused and bias is None and _fuses(q, dropout) and _has_kernel(q):
        return attend_at_once(q, k, v, packing, dropout=dropout, scale=scale, firsts=firsts)
    parts = zip(packing.split(q, firsts), packing.split(k), packing.split(v), strict=True)
    outputs = []
    for run in parts:
        heads = (x.transpose(1, 2) for x in run)  # (n, N, L, D) each
        length = run[1].shape[1]
        own = None if bias is None else bias[:, :length, :length]
        mixed = attend_padded(*heads, own, dropout=dropout, fused=fused, scale=scale)
        outputs.append(mixed.transpose(1, 2).flatten(0, 1))  # (n * L, N, D)
    return torch.cat(outputs) if outputs else q


def attend_padded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    dropout: float = 0.0,
    fused: bool = True,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k' * scale + bias) v: (n, N, Q, D), (n, N, K, D), (n, N, K, D) -> (n, N, Q, D).

    bias: anything that broadcasts to (n, N, Q, K).  scale: None: 1 / sqrt(D).
    """
    if bias is not None:
        bias = bias.to(q.dtype)
        bias = bias if bias.dim() == 4 else bias[None]  # else torch takes its slow path
    if fused and _fuses(q, dropout):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale
        )
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)  # fewer numbers than scores
    scores = q @ k.transpose(-1, -2)  # (n, N, Q, K)
    scores = scores if bias is None else scores + bias
    return drop(scores.softmax(-1), dropout) @ v  # (n, N, Q, D)


def barred(bias: Tensor, packing: Packing) -> Tensor:
    """A bias (N, T, T) for a padded batch, lowest where a row has no token: (B, N, T, T).

    For a GPU, whose variable-length kernels take no bias, and for rows with holes, across which
    distances are not those of the packed tokens.
    """
    real = packing.pad(torch.ones_like(packing.index)) > 0  # (B, T)
    return bias.masked_fill(~real[:, None, None], LOWEST)


def _fuses(q: Tensor, dropout: float) -> bool:
    """Whether a kernel may do it all.  The CPU has none with dropout.  Training in float32 on a GPU
    with the kernels' dropout fell behind the CPU's with the same batches, so it is not used there.
    """
    return not dropout or (q.is_cuda and q.dtype is not torch.float32)


def _has_kernel(q: Tensor) -> bool:
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    return q.is_cuda and q.dtype in kinds and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256


def attend_at_once(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packing: Packing,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
    firsts: bool = False,
) -> Tensor:
    """The whole packed batch in one variable-length kernel: what a GPU wants.

    Many small launches are slow there, so the runs are not looped over: torch's flash kernel (half
    precision) and its memory-efficient one (float32) take the places where sequences begin.  They
    are called without the nested tensors that stand before them, which cost more than the kernels.
    """
    longest = packing.lengths[-1] if packing.lengths else 0
    if not longest:
        return q
    starts = asking = packing.starts
    if firsts:
        asking = torch.arange(len(starts), dtype=torch.int32, device=q.device)
    where = (asking, starts, 1 if firsts else longest, longest, dropout)
    if q.dtype is torch.float32:
        learns = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        batch = (x[None] for x in (q, k, v))  # (1, S, N, D) each
        kernel = torch.ops.aten._efficient_attention_forward
        return kernel(*batch, None, *where, 0, learns, scale=scale)[0][0]
    return torch.ops.aten._flash_attention_forward(q, k, v, *where, False, False, scale=scale)[0]
