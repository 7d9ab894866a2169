"""Linear layers in 8-bit integers, for prediction on a CPU.

A CPU reads 8-bit weights four times as fast as float32 ones, and multiplies them faster too.

    weights   each row has a scale, computed once:    0.50 -1.27 0.02  / 0.01  ->   50 -127  2
    inputs    a batch has one scale, at each call:   -0.27  1.00 0.50  / 0.01  ->  -27  100 50
    output    the sum of products times both scales:                -13,950 * 0.0001  ->  -1.395

The scale of the inputs is (max - min) / 127, where the range includes 0.  They have 7 bits, because
older processors add two products in 16 bits: a processor adds the zero point (27), which makes them
unsigned (0 127 77), and takes its part out of the sum again.  The scale depends on the whole batch,
so an output depends slightly on the other rows.  Embeddings, norms, attention and the layer with a
row for each label stay in float32.

Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-
only inference".

torch plans to remove its operators for this.  Where it has none that works, and with kernels off
(nn/kernels.py), `int8_linear` computes the same with public operators, without the gain in speed.

Dimensions: O, H rows and columns of a weight.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from minift.errors import UserError
from minift.nn.kernels import usable

ModelType = TypeVar("ModelType", bound=Any)  # a PretrainedModel, which is defined above nn

LARGEST = 127  # the largest 8-bit weight; -128 is not used, so that one scale serves both signs
MAX_INPUT = 127  # the largest 7-bit input
MIN_INPUT_SCALE = 6.1e-5  # the lower limit of torch's operator


class Int8Linear(nn.Module):
    """(..., H) -> (..., O), from the weight (O, H) and the bias (O,) of a linear layer.

    The operators take float32; the output has the type of the input.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        weight, bias = weight.detach(), None if bias is None else bias.detach()
        scales = weight_scales(weight)  # (O,)
        self.prepacked = _prepack(weight, scales, bias) if usable(_try_operators) else None
        if self.prepacked is None:
            scales = scales.float()
            self.register_buffer("weight", (weight * (1 / scales)[:, None]).round().to(torch.int8))
            self.register_buffer("scales", scales)
            self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.prepacked is None:
            y = int8_linear(x.float(), self.weight, self.scales, self.bias)
        else:
            y = _linear(x.float(), self.prepacked)
        return y.to(x.dtype)


def weight_scales(weight: Tensor) -> Tensor:
    """(O, H) -> (O,) float64: the scale of each row, with which its largest number becomes 127."""
    return weight.abs().amax(1).double().clamp(min=1e-12) / LARGEST


def int8_linear(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """The plain formula of `Int8Linear`, with public operators: (..., H) -> (..., O).

    weight: (O, H) int8.  scales: (O,) float32.  bias: (O,) or None.
    The integers are multiplied as float32 numbers, which hold sums up to 2^24 exactly.
    """
    lowest, highest = torch.cat([x.flatten(), x.new_zeros(1)]).aminmax()
    scale = ((highest.double() - lowest) / MAX_INPUT).clamp(min=MIN_INPUT_SCALE).float()
    inputs = (x * (1 / scale)).round()  # (..., H)
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 could not hold the sums
        outputs = (inputs @ weight.float().T) * (scale * scales)  # (..., O)
    return outputs if bias is None else outputs + bias


def _prepack(weight: Tensor, scales: Tensor, bias: Tensor | None) -> Any:
    """The weight (O, H) in 8 bits, as torch's operator takes it."""
    zero_points = torch.zeros(len(weight), dtype=torch.int64)
    with warnings.catch_warnings():
        # torch plans to remove these tensor types; its kernels still require them.
        warnings.simplefilter("ignore", UserWarning)
        quantized = torch.quantize_per_channel(weight, scales, zero_points, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(quantized, bias)


def _linear(x: Tensor, prepacked: Any) -> Tensor:
    return torch.ops.quantized.linear_dynamic(x, prepacked, True)  # True: inputs in 7 bits


def _try_operators() -> None:
    weight = torch.ones(2, 3)
    _linear(torch.ones(1, 3), _prepack(weight, weight_scales(weight), None))


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
