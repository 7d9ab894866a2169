"""Linear layers in whole numbers of 8 bits: for prediction on a CPU, which reads them four times as
fast and multiplies them faster still.

    weights   each row has a scale of its own, found once:   0.50 -1.27 0.02  / 0.01  ->  50 -127 2
    inputs    a batch has one scale and one zero, found anew at each call: its least to its most
    output    the sums of products, in 32 bits, times both scales, in float32

(Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-
only inference".)  An output depends a little on what else is in its batch, since that has a part in
the inputs' scale.  Embeddings, norms, attention and the heads of labels stay in float32.

Dimensions: O, H rows and columns of a weight.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from minift.errors import InputError
from minift.models.base import ModelType
from minift.models.heads import Head
from minift.models.t5 import T5ForConditionalGeneration

LARGEST = 127  # whole number of a weight; -128 is not used, so that a scale serves both signs


class Int8Linear(nn.Module):
    """(..., H) -> (..., O), from the weight (O, H) and the bias (O,) of a linear layer."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        scales = weight.detach().abs().amax(1).double().clamp(min=1e-12) / LARGEST  # (O,)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            # torch means to give these types of tensors up some day; its kernels still want them.
            warnings.simplefilter("ignore", UserWarning)
            whole = torch.quantize_per_channel(weight.detach(), scales, zeros, 0, torch.qint8)
            own = None if bias is None else bias.detach()
            self.packed = torch.ops.quantized.linear_prepack(whole, own)

    def forward(self, x: Tensor) -> Tensor:
        # True: inputs in 7 bits, since older processors add two products in 16.
        return torch.ops.quantized.linear_dynamic(x, self.packed, True)


def in_int8(model: ModelType) -> ModelType:
    """A copy of a model on the CPU whose linear layers are `Int8Linear`; it cannot be trained.

    Raises `InputError` for a model on a GPU.
    """
    if model.device.type != "cpu":
        raise InputError(f"--int8 is for the CPU, but --device is {model.device}; use --device cpu")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if isinstance(model, T5ForConditionalGeneration) and model.lm_head is None:
        model.lm_head = Int8Linear(model.shared.weight, None)  # the output is the embeddings
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and not isinstance(child, Head):
                setattr(module, name, Int8Linear(child.weight, child.bias))
    return model
