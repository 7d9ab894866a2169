"""Code that exists only for speed.  Each function names the plain formula that it replaces.

    dropout                     four decisions from one random number of 64 bits  F.dropout
    rms_norm                    a hand-written gradient, on a CPU                 F.rms_norm
    linear                      weights that were laid out in blocks, on a CPU    F.linear
    varlen_attention            a packed batch in one kernel, on a GPU            packed_attention
    sparse_embedding_gradients  only the rows of a batch, on a CPU                nn.Embedding
    scale_tensors_              many tensors in one call                          Tensor.mul_
    lerp_tensors_               many tensors in one call                          Tensor.lerp_

The results equal those of the plain formula up to rounding and dropout's random numbers.

Nothing here is needed.  Operators that torch does not document may be missing from a build, take
other arguments in another version, or refuse a device.  So `usable` runs each of them once, on a
few numbers, and where it fails the plain formula is used.  The environment variable
MINIFT_KERNELS=off turns all kernels off, those of nn/int8.py too: a way to find out whether one of
them causes a problem.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minift.nn.packing import Packing

ENABLED = os.environ.get("MINIFT_KERNELS", "on").lower() not in ("off", "0", "false", "no")


def usable(trial: Callable[..., object], *arguments: Hashable) -> bool:
    """Whether kernels are enabled and `trial(*arguments)`, which runs one of them, succeeds.

    A trial draws no random numbers.  It runs once in a process for the same arguments.
    """
    return ENABLED and _succeeds(trial, *arguments)


@cache
def _succeeds(trial: Callable[..., object], *arguments: Hashable) -> bool:
    try:
        with torch.inference_mode(False), torch.enable_grad():
            trial(*arguments)
    # The operator is missing, takes other arguments, or refuses; NotImplementedError is among the
    # RuntimeErrors.
    except (AttributeError, TypeError, RuntimeError):
        return False
    return True


# ---- dropout -----------------------------------------------------------------------------------

RANDOM_BITS = 16  # bits of randomness for each decision


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each number with probability p and divide the others by 1 - p, as in training.

    On a CPU, drawing one random number for each number of x takes most of the time of dropout.
    Here one draw of 64 bits decides about four numbers (`kept`); p is met to within 1 / 131,072.
    Plain formula: `F.dropout`, which a GPU and p = 1 use too.
    """
    if not p:
        return x
    levels = 2**RANDOM_BITS
    below = round(p * levels)
    if not ENABLED or x.is_cuda or below == levels:
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

    Plain formula: `F.rms_norm`.  torch has no kernel with a gradient for it on a CPU, and autograd
    through the steps of the formula takes two to three times as long as `_RMSNormFunction`.
    """
    if ENABLED and torch.is_grad_enabled() and not x.is_cuda and x.dtype is torch.float32:
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

# Rows of input that prepacked weights are used for.  The operator keeps code that it compiled for
# each number of rows until the process ends, 1.5 MB for many rows.
MAX_PREPACKED_ROWS = 256


def linear(x: Tensor, weight: Tensor, prepacked: Tensor | None = None) -> Tensor:
    """x times weight transposed: (..., H), (I, H) -> (..., I).

    Plain formula: `F.linear`.
    prepacked: the weight as `prepacked_weights` lays it out, or None.  Its operator computes in
        float32, and torch.compile cannot translate it; elsewhere the plain formula is used.
    """
    if prepacked is None or not _runs_in_float32(x) or torch.compiler.is_compiling():
        return F.linear(x, weight)
    if x.shape[:-1].numel() > MAX_PREPACKED_ROWS:  # not those of a step of generation
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
    A nested block does nothing, so several batches can share one layout.  On a GPU, in other
    precisions than float32 (autocast among them), and in a torch without oneDNN, nothing happens.
    """
    chosen = [
        module
        for module in modules
        if module.weight.device.type == "cpu"
        and _runs_in_float32(module.weight)
        and module.prepacked is None
        and usable(_try_prepacking)
    ]
    for module in chosen:
        module.prepacked = _prepack(module.weight.detach(), num_rows)
    try:
        yield
    finally:
        for module in chosen:
            module.prepacked = None


def _runs_in_float32(x: Tensor) -> bool:
    """Whether a product with x is computed in float32: mixed precision is off."""
    return x.dtype is torch.float32 and not torch.is_autocast_enabled(x.device.type)


def _prepack(weight: Tensor, num_rows: int) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)


def _try_prepacking() -> None:
    weight = torch.ones(2, 3)
    linear(torch.ones(1, 3), weight, _prepack(weight, num_rows=1))


# ---- variable-length attention -------------------------------------------------------------------


def has_varlen_attention(q: Tensor) -> bool:
    """Whether `varlen_attention` has a kernel for queries of this device, type and head width."""
    return _varlen_kernel(q) is not None


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
    """Attention of the whole batch in one kernel: (S, N, D) -> (S, N, D), or (F, N, D).

    Plain formula: the loop over length groups in `packed_attention`, which launches many small
    kernels.  torch's flash kernel (half precision) and its memory-efficient one (float32, and half
    precision on older GPUs) take the cumulative lengths instead.  They are called directly, because
    the nested tensors around them cost more time.  Only where `has_varlen_attention`.
    """
    kernel = _varlen_kernel(q)
    max_length = packing.lengths[-1] if packing.lengths else 0
    if not max_length:
        return q
    key_offsets = query_offsets = packing.cu_seqlens
    if cls_only:
        query_offsets = torch.arange(len(key_offsets), dtype=torch.int32, device=q.device)
    layout = (query_offsets, key_offsets, 1 if cls_only else max_length, max_length)
    return kernel(q, k, v, layout, dropout, scale)


# Cumulative lengths of queries and of keys, the largest number of queries and of keys.
Layout = tuple[Tensor, Tensor, int, int]


def _flash(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, dropout: float, scale: float | None
) -> Tensor:
    flags = (False, False)  # not causal, no mask returned
    return torch.ops.aten._flash_attention_forward(q, k, v, *layout, dropout, *flags, scale=scale)[
        0
    ]


def _memory_efficient(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, dropout: float, scale: float | None
) -> Tensor:
    trains = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    batch = (x[None] for x in (q, k, v))  # (1, S, N, D) each
    return torch.ops.aten._efficient_attention_forward(
        *batch, None, *layout, dropout, 0, trains, scale=scale
    )[0][0]


def _varlen_kernel(q: Tensor) -> Callable[..., Tensor] | None:
    """The first kernel that runs for queries of this device, type and head width."""
    if not q.is_cuda:
        return None
    kind = (q.device, q.dtype, q.shape[-1])
    kernels = (_flash, _memory_efficient)
    return next((kernel for kernel in kernels if usable(_try_varlen, kernel, *kind)), None)


def _try_varlen(
    kernel: Callable[..., Tensor], device: torch.device, dtype: torch.dtype, width: int
) -> None:
    x = torch.ones(3, 3, 1, width, device=device, dtype=dtype, requires_grad=True)  # (S, 3, N, D)
    offsets = torch.tensor([0, 1, 3], dtype=torch.int32, device=device)
    layout = (offsets, offsets, 2, 2)
    kernel(*x.unbind(1), layout, 0.0, None).sum().backward()
    x.grad.sum().item()  # waits for the GPU, which reports an error only then


# ---- sparse gradients of embedding tables --------------------------------------------------------

# Parameters of an embedding table from which a sparse gradient is faster than a dense one.
MIN_SPARSE_SIZE = 2**20


def sparse_embedding_gradients(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let the gradient of a large embedding table hold only the rows that a step has used.

    Plain formula: the dense gradient of `nn.Embedding`.  A table of 30,000 rows has a gradient of
    30,000 rows although a batch uses a few hundred; to allocate and fill it takes a twelfth of a
    step.  The gradient therefore stays sparse until the optimiser needs a dense one.  It then gets
    a buffer that is kept from step to step and is zero outside those rows.

        ids 7 2 7  ->  rows 2, 7 (summed)  ->  norm, clipping  ->  0 0 g2 0 0 0 0 g7 0 ...  ->  step

    The optimiser updates every row as usual: AdamW also moves rows that are not in the batch, by
    their running means.  A table that is also the output layer gets a dense gradient from there and
    is left dense.  CPU only; a GPU fills memory fast enough.
    """
    buffers: dict[Tensor, Tensor] = {}  # table -> its dense gradient
    used: dict[Tensor, Tensor] = {}  # table -> the rows that are not zero in the buffer
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    large = [
        module
        for module in tables
        if ENABLED
        and module.weight.numel() >= MIN_SPARSE_SIZE
        and module.weight.device.type == "cpu"
    ]
    for module in large:
        module.sparse = module.weight.requires_grad

    def make_dense(*_: Any) -> None:
        for table in (module.weight for module in large):
            if table.grad is not None and table.grad.is_sparse:
                sparse = table.grad.coalesce()
                if table not in buffers:
                    buffers[table] = torch.zeros_like(table)
                used[table] = sparse.indices()[0]
                table.grad = buffers[table].index_copy_(0, used[table], sparse.values())

    def clear(*_: Any) -> None:
        for table, rows in used.items():
            buffers[table].index_fill_(0, rows, 0.0)
            table.grad = None
        used.clear()

    optimizer.register_step_pre_hook(make_dense)
    optimizer.register_step_post_hook(clear)


def gradient_values(gradient: Tensor) -> Tensor:
    """The gradient; of a sparse one, its stored rows, each once.

    A change in place changes the gradient too, if a sparse one is coalesced.
    """
    return gradient.coalesce().values() if gradient.is_sparse else gradient


# ---- many tensors in one call --------------------------------------------------------------------


def scale_tensors_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply each tensor by the factor (), in place.  Plain formula: `Tensor.mul_`."""
    if tensors and usable(_try_multi_tensor, tensors[0].device, tensors[0].dtype):
        torch._foreach_mul_(tensors, factor)
        return
    for tensor in tensors:
        tensor.mul_(factor)


def lerp_tensors_(tensors: Sequence[Tensor], ends: Sequence[Tensor], share: float) -> None:
    """Move each tensor by this share of the way to its end, in place.  Plain: `Tensor.lerp_`."""
    if tensors and usable(_try_multi_tensor, tensors[0].device, tensors[0].dtype):
        torch._foreach_lerp_(tensors, ends, share)
        return
    for tensor, end in zip(tensors, ends, strict=True):
        tensor.lerp_(end, share)


def _try_multi_tensor(device: torch.device, dtype: torch.dtype) -> None:
    tensors = [torch.ones(2, device=device, dtype=dtype)]
    torch._foreach_mul_(tensors, torch.ones((), device=device))
    torch._foreach_lerp_(tensors, tensors, 0.5)
