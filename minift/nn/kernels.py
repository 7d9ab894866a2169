"""Code that exists only for speed.  Each function names the plain formula that it replaces.

    dropout             four decisions from one random number of 64 bits         F.dropout
    rms_norm            a hand-written gradient, on a CPU                         F.rms_norm
    linear              a product with weights that were laid out in blocks       F.linear
    varlen_attention    a packed batch in one kernel, on a GPU                    attention

The results equal those of the plain formula up to rounding and dropout's random numbers.  Where the
fast code does not apply, the plain formula is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minift.nn.packing import Packing

# ---- dropout -----------------------------------------------------------------------------------

RANDOM_BITS = 16  # bits of randomness for each decision


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each number with probability p and divide the others by 1 - p, as in training.

    On a CPU, drawing one random number for each number of x takes most of the time of dropout.
    Here one draw of 64 bits decides about four numbers (`kept`); p is met to within 1 / 131,072.
    A GPU and p = 1 use `F.dropout`.
    """
    if not p:
        return x
    levels = 2**RANDOM_BITS
    below = round(p * levels)
    if x.is_cuda or below == levels:
        return F.dropout(x, p)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    keep_mask = kept(draws.random_(-(2**63), None), below)[: x.numel()].view(x.shape)
    return _MaskedScale.apply(x, keep_mask, levels / (levels - below))


def kept(random: Tensor, below: int) -> Tensor:
    """Which numbers dropout keeps: int64 random numbers (n,) -> bool (4 n,), 16 bits for each.

    The 16 bits are a signed number, from -32,768 to 32,767.  The `below` lowest are dropped.  With
    p = 0.1, below = 6,554, these are the numbers under -32,768 + 6,554 = -26,214:

        bits      c003      7ab0      9e2f      8451
        number    -16,381   31,408    -25,041   -31,663
        kept      yes       yes       yes       no

    >>> kept(torch.tensor([0x8451_9E2F_7AB0_C003 - 2**64]), below=6554).tolist()
    [True, True, True, False]
    """
    return random.view(torch.int16) >= below - 2 ** (RANDOM_BITS - 1)


class _MaskedScale(torch.autograd.Function):
    """x * keep_mask * factor.  Backward needs only the mask: one byte for each number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep_mask: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(keep_mask)
        ctx.factor = factor
        return x * keep_mask.to(x.dtype).mul_(factor)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return _MaskedScale.apply(dy, *ctx.saved_tensors, ctx.factor), None, None


# ---- RMSNorm -----------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x²) + epsilon) * weight: (..., H), (H,) -> (..., H).

    torch has no kernel with a gradient for it on a CPU, and autograd through the steps of the
    formula takes two to three times as long as `_RMSNormFunction`.
    """
    if torch.is_grad_enabled() and not x.is_cuda and x.dtype is torch.float32:
        return _RMSNormFunction.apply(x, weight, epsilon)
    return F.rms_norm(x, weight.shape, weight, epsilon)


class _RMSNormFunction(torch.autograd.Function):
    """RMSNorm with a hand-written gradient.

    h = x / rms(x)        y = h * weight
    dh = dy * weight      dx = (dh - h * mean(dh * h)) / rms(x)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (..., 1)
        scale = size.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()  # 1 / rms(x)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        h = x * scale  # (..., H)
        trained = ctx.needs_input_grad[1]  # not with LoRA or BitFit, which freeze the norms
        dweight = (dy * h).flatten(0, -2).sum(0) if trained else None  # (H,)
        dh = dy * weight  # (..., H)
        shared = torch.linalg.vecdot(dh, h).unsqueeze(-1).div_(x.shape[-1])  # (..., 1)
        return dh.addcmul_(h, shared, value=-1).mul_(scale), dweight, None


# ---- weights laid out for few rows of input ------------------------------------------------------


def linear(x: Tensor, weight: Tensor, prepacked: Tensor | None = None) -> Tensor:
    """x times weight transposed: (..., H), (I, H) -> (..., I).

    prepacked: the weight as `prepacked_weights` lays it out, or None.
    """
    if prepacked is None:
        return F.linear(x, weight)
    return torch.ops.mkldnn._linear_pointwise(x, prepacked, None, "none", [], "")


@contextmanager
def prepacked_weights(modules: Iterable[nn.Module], num_rows: int) -> Iterator[None]:
    """In this context, these modules also hold their weights in blocks that suit few rows of input.

    A step of generation has as many rows as sequences, and most of its time goes into reading all
    weights.  A CPU reads weights that are laid out in blocks three to five times as fast; laying
    them out takes as long as a few steps.  The results are the same up to rounding.

    modules: each has `weight` and an attribute `prepacked`, which `linear` is given.
    num_rows: about how many rows an input has.
    A nested block does nothing, so several batches can share one layout.  On a GPU, and in other
    precisions than float32, nothing happens.
    """
    chosen = [
        module
        for module in modules
        if module.weight.device.type == "cpu"
        and module.weight.dtype is torch.float32
        and module.prepacked is None
        and torch.backends.mkldnn.is_available()
    ]
    for module in chosen:
        weight = module.weight.detach()
        module.prepacked = torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)
    try:
        yield
    finally:
        for module in chosen:
            module.prepacked = None


# ---- variable-length attention -------------------------------------------------------------------


def has_varlen_attention(q: Tensor) -> bool:
    """Whether `varlen_attention` has a kernel for queries of this device, type and head width."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    return q.is_cuda and q.dtype in dtypes and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packing: Packing,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
    cls_only: bool = False,
) -> Tensor:
    """`packed_attention` of the whole batch in one kernel: (S, N, D) -> (S, N, D), or (F, N, D).

    A loop over length groups launches many small kernels, which is slow on a GPU.  torch's flash
    kernel (half precision) and its memory-efficient one (float32) take the cumulative lengths
    instead.  They are called directly, because the nested tensors around them cost more time.
    """
    max_length = packing.lengths[-1] if packing.lengths else 0
    if not max_length:
        return q
    key_offsets = query_offsets = packing.cu_seqlens
    if cls_only:
        query_offsets = torch.arange(len(key_offsets), dtype=torch.int32, device=q.device)
    layout = (query_offsets, key_offsets, 1 if cls_only else max_length, max_length, dropout)
    if q.dtype is torch.float32:
        trains = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        batch = (x[None] for x in (q, k, v))  # (1, S, N, D) each
        kernel = torch.ops.aten._efficient_attention_forward
        return kernel(*batch, None, *layout, 0, trains, scale=scale)[0][0]
    return torch.ops.aten._flash_attention_forward(q, k, v, *layout, False, False, scale=scale)[0]
