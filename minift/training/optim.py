"""Parameter groups, optimisers, and the gradient's norm and clipping.

AdamW: Loshchilov and Hutter 2019, "Decoupled weight decay regularization"; with bias correction,
which the original BERT left out and fine-tuning on small data needs (Mosbach et al. 2021, "On the
stability of fine-tuning BERT").
Adafactor: Shazeer and Stern 2018, "Adafactor: adaptive learning rates with sublinear memory cost",
which T5 was pretrained with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minift.models.base import PretrainedModel
from minift.nn.kernels import gradient_values, lerp_tensors_, scale_tensors_


class L2SP:
    """Decay of pretrained parameters towards their initial values, as `parameter_groups` says.

    L2-SP: Li et al. 2018, "Explicit inductive bias for transfer learning with convolutional
    networks".  The decay is decoupled from the gradient, as weight decay is in AdamW:

        w  <-  w + learning rate * strength * (w_0 - w)
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        """Called before the first step, with the pretrained weights in the model."""
        groups = [group for group in optimizer.param_groups if group["l2_sp"]]
        self.groups = [(group, [p.detach().clone() for p in group["params"]]) for group in groups]

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters, in place, towards their initial values; after the optimiser."""
        for group, initial in self.groups:
            lerp_tensors_(group["params"], initial, group["lr"] * group["l2_sp"])


def parameter_groups(
    model: PretrainedModel,
    weight_decay: float,
    layerwise_lr_decay: float = 1.0,
    head_lr_multiplier: float = 1.0,
    l2_sp: float = 0.0,
    pretrained: Collection[str] = (),
) -> list[dict[str, Any]]:
    """The optimiser's groups: each trainable parameter is in exactly one, a frozen one in none.

    Weight decay applies to matrices, not to norms and biases (one dimension).  With `l2_sp`, the
    strength of L2-SP, the parameters named in `pretrained` decay towards their initial values
    instead, and weight decay is left to the new ones, such as a head, as in Li et al. 2018.

    A group's learning rate is the run's times the group's `factor`.  With layer-wise learning rate
    decay (Howard and Ruder 2018, "Universal language model fine-tuning for text classification")
    the factor of a layer is `layerwise_lr_decay` times that of the layer above it.  Everything
    above the last layer (pooler, head, T5's final norms) counts as head, with the factor
    `head_lr_multiplier`.  T5's encoder layer i and decoder layer i have the same depth
    (`PretrainedModel.layer_depths`) and so the same factor.  With six layers and a decay of 0.8:

        head            head_lr_multiplier
        layer 5         1
        layer 4         0.8
        ...
        layer 0         0.8 ** 5
        embeddings      0.8 ** 6
    """
    groups: dict[tuple[bool, bool, float], dict[str, Any]] = {}
    top, depths = model.num_layers, model.layer_depths()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = depths[name]
            factor = head_lr_multiplier if depth > top else layerwise_lr_decay ** (top - depth)
            anchored = bool(l2_sp) and name in pretrained
            decays = parameter.dim() > 1 and not anchored
            group = groups.setdefault((anchored, decays, factor), {"params": [], "names": []})
            group["params"].append(parameter)
            group["names"].append(name)
            group.update(factor=factor, weight_decay=weight_decay if decays else 0.0)
            group["l2_sp"] = l2_sp if anchored else 0.0
    return list(groups.values())


def describe_groups(groups: Sequence[Mapping[str, Any]], learning_rate: float) -> str:
    """A line for each learning rate: its tensors, how many parameters they hold, the first name."""
    lines = []
    for factor in sorted({group["factor"] for group in groups}, reverse=True):
        same = [group for group in groups if group["factor"] == factor]
        names = [name for group in same for name in group["names"]]
        count = sum(p.numel() for group in same for p in group["params"])
        shown = f"{len(names)} tensors, {count:,} parameters: {names[0]}"
        shown += ", ..." if names[1:] else ""
        lines.append(f"learning rate {factor * learning_rate:.2e}  {shown}")
    return "\n".join(lines)


def make_optimizer(name: str, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of `parameter_groups`; `set_learning_rate` sets its learning rate at each step.

    adamw: keeps two moments for each weight.
    adafactor: keeps one moment for each row and column.  Its steps are relative to the weights'
        size, so its learning rates do not compare with AdamW's.
    """
    own = [{key: value for key, value in group.items() if key != "names"} for group in groups]
    if name == "adafactor":
        return torch.optim.Adafactor(own, lr=0.0)
    return torch.optim.AdamW(own, lr=0.0, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set each group's learning rate: the run's times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["factor"]


@torch.no_grad()
def average_and_clip_gradients(model: nn.Module, count: Tensor, max_norm: float) -> Tensor:
    """Turn the gradients of a summed loss into those of its mean, clipped, in place.

    count: how many losses were summed.
    Returns the norm of the mean's gradient before clipping.  Dividing by the count and clipping are
    one multiplication, which saves a pass over the parameters.
    """
    trained = [p for p in model.parameters() if p.grad is not None]
    for parameter in trained:
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # sums rows that occur more than once
    gradients = [gradient_values(parameter.grad) for parameter in trained]
    norm = torch.nn.utils.get_total_norm(gradients) / count
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0) / count
    scale_tensors_(gradients, factor)
    return norm
