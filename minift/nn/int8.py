"""Linear layers in 8-bit integers, for prediction on a CPU.

A CPU reads 8-bit weights four times as fast as float32 ones, and multiplies them faster too.

    weights   each row has a scale, computed once:      0.50 -1.27 0.02  / 0.01  ->  50 -127 2
    inputs    a batch has one scale and zero point, from its minimum and maximum at each call
    output    sums of products in 32 bits, times both scales, in float32

Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-
only inference".  The scale of the inputs depends on the whole batch, so an output depends slightly
on the other rows.  Embeddings, norms, attention and the heads with labels stay in float32.

Dimensions: O, H rows and columns of a weight.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from minift.errors import UserError

ModelType = TypeVar("ModelType", bound=Any)  # a PretrainedModel, which is defined above nn

LARGEST = 127  # the largest 8-bit weight; -128 is not used, so that one scale serves both signs


class Int8Linear(nn.Module):
    """(..., H) -> (..., O), from the weight (O, H) and the bias (O,) of a linear layer."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        scales = weight.detach().abs().amax(1).double().clamp(min=1e-12) / LARGEST  # (O,)
        zero_points = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            # torch plans to remove these tensor types; its kernels still require them.
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch.quantize_per_channel(
                weight.detach(), scales, zero_points, 0, torch.qint8
            )
            bias = None if bias is None else bias.detach()
            self.prepacked = torch.ops.quantized.linear_prepack(quantized, bias)

    def forward(self, x: Tensor) -> Tensor:
        # True: inputs in 7 bits, because older processors add two products in 16 bits.
        return torch.ops.quantized.linear_dynamic(x, self.prepacked, True)


def quantize_int8(model: ModelType) -> ModelType:
    """A copy of a model on the CPU with `Int8Linear` layers, for prediction only.

    A module with `quantizable = False` keeps float32.  An output layer that is tied to the
    embeddings gets an 8-bit copy, and the embeddings keep float32.
    Raises `UserError` for a model on a GPU.
    """
    if model.device.type != "cpu":
        raise UserError(f"--int8 is for the CPU, but --device is {model.device}; use --device cpu")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    model.replace_tied_output(Int8Linear)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and getattr(child, "quantizable", True):
                setattr(module, name, Int8Linear(child.weight, child.bias))
    return model
