"""Time for memory, and a wait at the beginning for faster steps.

    plain        keeps what every layer computes, for the gradients
    recompute    keeps what goes into each layer, and computes the rest again: a third more
                 arithmetic, a fraction of the memory (Chen et al. 2016, "Training deep nets with
                 sublinear memory cost")
    compile      torch.compile makes few kernels of many in the feed-forward layers, whose shapes
                 alone do not depend on how long each sequence is

Neither changes what is learned: with recomputing also dropout is the same to the bit, compiled
layers draw other random numbers.
"""

from __future__ import annotations

import re
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

LAYER = re.compile(r".*\blayers\.\d+")


def recompute_layers(model: nn.Module) -> None:
    """Let the model's layers keep their inputs alone; in place, and not seen by `state_dict`."""
    for name, layer in model.named_modules():
        if LAYER.fullmatch(name):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_layers(model: nn.Module) -> None:
    """Let torch compile the feed-forward layers, at their first use; in place, likewise."""
    for name, layer in model.named_modules():
        if name.endswith("feed_forward"):
            layer.compile(dynamic=True)
