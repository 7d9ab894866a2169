"""Scaled dot-product attention: the formula, torch's fused kernel, and both over a packed batch.

    attention(q, k, v) = softmax(q k' * scale + bias) v          scale: 1 / sqrt(D) unless given

Reference: Vaswani et al. 2017, "Attention is all you need".

`packed_attention` applies it to sequences that are laid end to end without padding
(nn/packing.py).  On a CPU it computes each group of equally long sequences at once, so no mask is
needed.  A GPU computes the whole batch in one variable-length kernel, where it has one.  With a
bias from `masked_bias` the batch is padded for attention.

Dimensions: B batch, T width of the padded batch, S real tokens in the batch, n sequences in a
length group, L their length, F sequences that are not empty, N heads, D head width, Q queries,
K keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minift.nn.kernels import dropout as random_dropout
from minift.nn.kernels import has_varlen_attention, varlen_attention
from minift.nn.packing import Packing

# Added to the score of a masked token.  A number and not -inf, because a row in which every token
# is masked would have no softmax.  It is the lowest bfloat16 number, which float32 also holds
# (float16 does not).
MASK_VALUE = torch.finfo(torch.bfloat16).min


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packing: Packing,
    *,
    dropout: float = 0.0,
    fused: bool = True,
    scale: float | None = None,
    bias: Tensor | None = None,
    cls_only: bool = False,
) -> Tensor:
    """Bidirectional attention of each token to the tokens of its own sequence.

    q, k, v: (S, N, D) packed.  Returns (S, N, D).
    dropout: probability with which an attention weight is dropped; 0 drops none.
    fused: use torch's kernels; False writes the formula out.  Equal up to rounding.
    scale: factor of the scores; None: 1 / sqrt(D).
    bias: (N, T, T), added to the scores.  It depends only on the distance between two tokens, so a
        sequence of length L uses its corner (N, L, L).  Or (B, N, T, T) from `masked_bias`: then
        the batch is padded for attention.
    cls_only: only the first token of each sequence attends.  q and the result are (F, N, D);
        without a bias.
    """
    if bias is not None and bias.dim() == 4:
        batch = (packing.pad(x).transpose(1, 2) for x in (q, k, v))  # (B, N, T, D) each
        mixed = attention(*batch, bias, dropout=dropout, fused=fused, scale=scale)
        return packing.unpad(mixed.transpose(1, 2))  # (S, N, D)
    if fused and bias is None and _can_fuse(q, dropout) and has_varlen_attention(q):
        return varlen_attention(q, k, v, packing, dropout=dropout, scale=scale, cls_only=cls_only)
    groups = zip(
        packing.split_by_length(q, cls_only),
        packing.split_by_length(k),
        packing.split_by_length(v),
        strict=True,
    )
    outputs = []
    for group in groups:
        heads = (x.transpose(1, 2) for x in group)  # (n, N, L, D) each
        length = group[1].shape[1]
        corner = None if bias is None else bias[:, :length, :length]  # (N, L, L)
        mixed = attention(*heads, corner, dropout=dropout, fused=fused, scale=scale)
        outputs.append(mixed.transpose(1, 2).flatten(0, 1))  # (n * L, N, D)
    return torch.cat(outputs) if outputs else q


def attention(
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

    bias: broadcasts to (n, N, Q, K); -inf or `MASK_VALUE` hides a key.  A causal decoder passes
        -inf above the diagonal.  scale: None: 1 / sqrt(D).
    """
    if bias is not None:
        bias = bias.to(q.dtype)
        # Four dimensions, because with three torch's CPU would not use its fused kernel.
        bias = bias if bias.dim() == 4 else bias[None]
    if fused and _can_fuse(q, dropout):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale
        )
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)  # q has fewer numbers than scores
    scores = q @ k.transpose(-1, -2)  # (n, N, Q, K)
    scores = scores if bias is None else scores + bias
    return random_dropout(scores.softmax(-1), dropout) @ v  # (n, N, Q, D)


def masked_bias(bias: Tensor, packing: Packing) -> Tensor:
    """A bias (N, T, T) -> (B, N, T, T), `MASK_VALUE` at padding.

    For a GPU, whose variable-length kernels take no bias, and for rows with gaps, across which the
    distance between two tokens is not that of their packed positions.
    """
    real = packing.pad(torch.ones_like(packing.index)) > 0  # (B, T)
    return bias.masked_fill(~real[:, None, None], MASK_VALUE)


def _can_fuse(q: Tensor, dropout: float) -> bool:
    """Whether torch's fused kernels may be used.

    The CPU's have no dropout.  A GPU's have it, but float32 training with them gave worse models
    than training on a CPU with the same batches, so float32 with dropout uses the formula.
    """
    return not dropout or (q.is_cuda and q.dtype is not torch.float32)
