"""Code that exists only for speed.  Each function names the plain formula that it replaces.

    dropout             four decisions from one random number of 64 bits         F.dropout
    rms_norm            its gradient by hand, on a CPU                            F.rms_norm
    linear              a product with weights that were laid out in blocks       F.linear
    varlen_attention    a packed batch in one kernel, on a GPU                    attention

A model calls them by these names and computes the same, up to rounding and the random numbers of
dropout, wherever the fast way does not apply.
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
    Here one draw of 64 bits decides about four numbers; p is met to within 1 / 131,072.

        draw      0x0451 9e2f 7ab0 c003      p = 0.1: below 0x199a = 6,554 of 65,536
        dropped     yes   no   no   no

    A GPU and p = 1 use `F.dropout`.
    """
    if not p:
        return x
    levels = 2**RANDOM_BITS
    below = round(p * levels)
    if x.is_cuda or below == levels:
        return F.dropout(x, p)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    # Each quarter is a signed 16-bit number, so comparisons are shifted by half of the range.
    quarters = draws.random_(-(2**63), None).view(torch.int16)[: x.numel()]
    keep_mask = (quarters >= below - levels // 2).view(x.shape)
    return _MaskedScale.apply(x, keep_mask, levels / (levels - below))


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
    """RMSNorm with its gradient by hand.

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
    """Within, these modules also hold their weights in blocks that suit few rows of input.

    A step of generation has as many rows as sequences, and its time is that of reading all weights.
    A CPU reads weights that are laid out in blocks three to five times as fast; laying them out
    takes as long as a few steps.  The results are the same up to rounding.

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
