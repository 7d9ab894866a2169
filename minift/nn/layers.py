"""Small parts that models are made of: activations, norms, feed-forward layers, new layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# The names that config.json uses, and what they mean.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}


LANES = 2**16  # what a quarter of a draw of 64 bits can be


def drop(x: Tensor, p: float) -> Tensor:
    """Dropout as it is in training: each number zero with probability p, the others / (1 - p).

    On a CPU most of the time of dropout goes into its random numbers, one for each number of x.
    Here one draw of 64 bits decides about four of them; p is met to within 1 / 131,072.

        draw      0x0451 9e2f 7ab0 c003      p 0.1: below 0x199a = 6,554 of 65,536
        dropped     yes   no   no   no
    """
    if not p:
        return x
    below = round(p * LANES)
    if x.is_cuda or below == LANES:
        return F.dropout(x, p)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    lanes = draws.random_(-(2**63), None).view(torch.int16)[: x.numel()]  # from -32,768
    kept = (lanes >= below - LANES // 2).view(x.shape)
    return _Keep.apply(x, kept, LANES / (LANES - below))


class _Keep(torch.autograd.Function):
    """x * kept * factor, which for its gradient remembers the decisions alone: a byte each, not the
    four of a mask to multiply by."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.factor = factor
        return x * kept.to(x.dtype).mul_(factor)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return _Keep.apply(dy, *ctx.saved_tensors, ctx.factor), None, None


class Dropout(nn.Dropout):
    """`drop` in training, nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        return drop(x, self.p) if self.training else x


class RMSNorm(nn.Module):
    """x / rms(x) * weight, without mean and bias (Zhang and Sennrich 2019); (..., H) -> (..., H).

    The mean of squares is taken in float32 at least: in half precision it would overflow.
    """

    def __init__(self, size: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not x.is_cuda and x.dtype is torch.float32:
            return _RMSNormThatLearns.apply(x, self.weight, self.epsilon)
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class _RMSNormThatLearns(torch.autograd.Function):
    """The same on a CPU with its gradient by hand.

    torch has no kernel for either there, and what autograd makes of the formula's steps takes two
    to three times as long.

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
        learns = ctx.needs_input_grad[1]  # not where LoRA or biases alone do
        dweight = (dy * h).flatten(0, -2).sum(0) if learns else None  # (H,)
        dh = dy * weight  # (..., H)
        shared = torch.linalg.vecdot(dh, h).unsqueeze(-1).div_(x.shape[-1])  # (..., 1)
        return dh.addcmul_(h, shared, value=-1).mul_(scale), dweight, None


class Linear(nn.Linear):
    """A linear layer without bias: (..., H) -> (..., I).  packed: see `packed_for_few`."""

    packed: Tensor | None = None

    def __init__(self, size_in: int, size_out: int):
        super().__init__(size_in, size_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.packed)


def product(x: Tensor, weight: Tensor, packed: Tensor | None = None) -> Tensor:
    """x times weight, transposed: (..., H), (I, H) -> (..., I)."""
    if packed is None:
        return F.linear(x, weight)
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


@contextmanager
def packed_for_few(modules: Iterable[nn.Module], rows: int) -> Iterator[None]:
    """Within, the weights of these modules are also there in blocks that suit a few rows of input.

    In generation there are as many rows as sequences, and a step takes as long as it takes to read
    all weights.  Laid out in blocks they are read three to five times as fast on a CPU; laying them
    out takes as long as a few steps.  The results are the same up to rounding.  Within such a block
    another one does nothing more, so that many batches can share one.  Nothing happens on a GPU and
    in other precisions than float32.
    """
    chosen = [
        module
        for module in modules
        if module.weight.device.type == "cpu"
        and module.weight.dtype is torch.float32
        and module.packed is None
        and torch.backends.mkldnn.is_available()
    ]
    for module in chosen:
        module.packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), rows)
    try:
        yield
    finally:
        for module in chosen:
            module.packed = None


class FeedForward(nn.Module):
    """One hidden layer without biases, with norm and residual: (..., H) -> (..., H).

    Plain: down(relu(up x)).  Gated: down(gelu(gate x) * up x), both in one matrix (Shazeer 2020).
    """

    def __init__(
        self, norm: RMSNorm, inner: int, activation: str, gated: bool, dropout: float
    ) -> None:
        super().__init__()
        size = len(norm.weight)
        self.activation = ACTIVATIONS[activation]
        self.norm = norm
        self.gate_up = Linear(size, 2 * inner) if gated else None
        self.up = None if gated else Linear(size, inner)
        self.down = Linear(inner, size)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_up is not None:
            gate, up = self.gate_up(self.norm(x)).chunk(2, -1)  # (..., I) each
            wide = self.activation(gate) * up
        else:
            wide = self.activation(self.up(self.norm(x)))  # (..., I)
        return x + self.dropout(self.down(self.dropout(wide)))


def init_linear(layer: nn.Linear, std: float) -> nn.Linear:
    """Normal weights, zero bias: how BERT starts a new layer (Devlin et al. 2019)."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
