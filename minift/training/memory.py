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

from functools import partial
from itertools import chain

from torch.utils.checkpoint import checkpoint

from minift.models.base import PretrainedModel


def enable_gradient_checkpointing(model: PretrainedModel) -> None:
    """Let each layer recompute its activations; in place, without a change to `state_dict`."""
    for layer in chain(*model.layer_stacks()):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_layers(model: PretrainedModel) -> None:
    """Let torch compile the feed-forward layers when they are first used; in place."""
    for layer in chain(*model.layer_stacks()):
        layer.feed_forward.compile(dynamic=True)
