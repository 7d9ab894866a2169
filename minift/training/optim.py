"""Parameter groups, optimisers, and the gradient's norm and clipping.

AdamW: Loshchilov and Hutter 2019, "Decoupled weight decay regularization"; with bias correction,
which the original BERT left out and fine-tuning on small data needs (Mosbach et al. 2021, "On the
stability of fine-tuning BERT").
Adafactor: Shazeer and Stern 2018, "Adafactor: adaptive learning rates with sublinear memory cost",
which T5 was pretrained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minift.models.base import PretrainedModel

# Parameters of an embedding table from which a sparse gradient is faster than a dense one.
MIN_SPARSE_SIZE = 2**20


@torch.no_grad()
def l2_sp_step(parameters: Sequence[Tensor], pretrained: Sequence[Tensor], share: float) -> None:
    """Move parameters, in place, by this share of the way towards their initial values.

    L2-SP: Li et al. 2018, "Explicit inductive bias for transfer learning with convolutional
    networks".  This decay acts in addition to weight decay towards 0, and is decoupled from the
    gradient in the same way as in AdamW.

    pretrained: the values before the first step: pretrained weights, and for a new head the values
        that it was initialised with.
    """
    torch._foreach_lerp_(list(parameters), list(pretrained), share)


def parameter_groups(
    model: PretrainedModel,
    weight_decay: float,
    layerwise_lr_decay: float = 1.0,
    head_lr_multiplier: float = 1.0,
) -> list[dict[str, Any]]:
    """The optimiser's groups: each trainable parameter is in exactly one, a frozen one in none.

    Weight decay applies to matrices, not to norms and biases (one dimension).  A group's learning
    rate is the run's times the group's `factor`.  With layer-wise learning rate decay (Howard and
    Ruder 2018, "Universal language model fine-tuning for text classification") the factor of a
    layer is `layerwise_lr_decay` times that of the layer above it.  Everything above the last layer
    (pooler, head, T5's final norms) counts as head, with the factor `head_lr_multiplier`.  T5's
    encoder layer i and decoder layer i have the same depth (`PretrainedModel.layer_depths`) and so
    the same factor.  With six layers and a decay of 0.8:

        head            head_lr_multiplier
        layer 5         1
        layer 4         0.8
        ...
        layer 0         0.8 ** 5
        embeddings      0.8 ** 6
    """
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    top, depths = model.num_layers, model.layer_depths()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = depths[name]
            factor = head_lr_multiplier if depth > top else layerwise_lr_decay ** (top - depth)
            decays = parameter.dim() > 1
            group = groups.setdefault((decays, factor), {"params": [], "names": []})
            group["params"].append(parameter)
            group["names"].append(name)
            group.update(factor=factor, weight_decay=weight_decay if decays else 0.0)
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


def sparse_embedding_gradients(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let the gradient of a large embedding table hold only the rows that a step has used.

    A table of 30,000 rows has a dense gradient of 30,000 rows although a batch uses a few hundred;
    to allocate and fill it takes a twelfth of a step.  The gradient therefore stays sparse until
    the optimiser needs a dense one.  It then gets a buffer that is kept from step to step and is
    zero outside those rows.

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
        if module.weight.numel() >= MIN_SPARSE_SIZE and module.weight.device.type == "cpu"
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
    """The gradient as a tensor to change in place; of a coalesced sparse one, its stored rows."""
    return gradient._values() if gradient.is_sparse else gradient


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
    torch._foreach_mul_(gradients, factor)
    return norm
