"""Gradient checkpointing, and compiled feed-forward layers.

    default                  every layer keeps its activations for the backward pass
    gradient checkpointing   a layer keeps only its inputs and computes the rest again: a third more
                             arithmetic, a fraction of the memory (Chen et al. 2016, "Training deep
                             nets with sublinear memory cost")
    compile                  torch.compile fuses kernels of the feed-forward layers, the only layers
                             whose shapes do not depend on how long each sequence is

Gradient checkpointing changes no number, dropout included.  Compiled layers draw other random
numbers.
"""

from __future__ import annotations

import re
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

LAYER = re.compile(r".*\blayers\.\d+")


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Let each layer recompute its activations; in place, without a change to `state_dict`."""
    for name, layer in model.named_modules():
        if LAYER.fullmatch(name):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_layers(model: nn.Module) -> None:
    """Let torch compile the feed-forward layers when they are first used; in place."""
    for name, layer in model.named_modules():
        if name.endswith("feed_forward"):
            layer.compile(dynamic=True)
