"""Layers that models share: activations, dropout, RMSNorm, linear and feed-forward layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minift.nn.kernels import dropout, linear, rms_norm

# Name of an activation in config.json -> the function.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}


class Dropout(nn.Dropout):
    """Dropout in training, the identity in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


class RMSNorm(nn.Module):
    """x / rms(x) * weight, without mean and bias (Zhang and Sennrich 2019); (..., H) -> (..., H).

    In half precision the mean of squares is taken in float32, where it cannot overflow.
    """

    def __init__(self, size: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon)


class NoBiasLinear(nn.Linear):
    """A linear layer without bias: (..., H) -> (..., I).

    prepacked: the weight in blocks, in the context of `kernels.prepacked_weights`; else None.
    """

    prepacked: Tensor | None = None

    def __init__(self, size_in: int, size_out: int):
        super().__init__(size_in, size_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.prepacked)


class OutputEmbedding(nn.Embedding):
    """An embedding (V, H) that may also be the output layer.

    prepacked: as of a `NoBiasLinear`.
    """

    prepacked: Tensor | None = None

    def logits(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., V)."""
        return linear(x, self.weight, self.prepacked)


class FeedForward(nn.Module):
    """Pre-norm feed-forward layer without biases, with its residual: (..., H) -> (..., H).

    Plain: down(relu(up x)).  Gated: down(gelu(gate x) * up x), gate and up in one matrix (Shazeer
    2020, "GLU variants improve Transformer").
    """

    def __init__(
        self, norm: RMSNorm, inner_size: int, activation: str, gated: bool, dropout_rate: float
    ) -> None:
        super().__init__()
        size = len(norm.weight)
        self.activation = ACTIVATIONS[activation]
        self.norm = norm
        self.gate_up = NoBiasLinear(size, 2 * inner_size) if gated else None
        self.up = None if gated else NoBiasLinear(size, inner_size)
        self.down = NoBiasLinear(inner_size, size)
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_up is not None:
            gate, up = self.gate_up(self.norm(x)).chunk(2, -1)  # (..., I) each
            inner = self.activation(gate) * up
        else:
            inner = self.activation(self.up(self.norm(x)))  # (..., I)
        return x + self.dropout(self.down(self.dropout(inner)))


def init_linear(layer: nn.Linear, std: float) -> nn.Linear:
    """Normal weights, zero bias: how BERT initialises a new layer (Devlin et al. 2019)."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
