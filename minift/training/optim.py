"""How fast each parameter learns.

References: Loshchilov and Hutter 2019, "Decoupled weight decay regularization" (AdamW), with bias
correction, which the original BERT lacked and small data needs (Mosbach et al. 2021); Shazeer and
Stern 2018, "Adafactor", which T5 was made with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minift.models.base import PretrainedModel

LARGE = 2**20  # numbers in an embedding table, from which it pays to keep its rows apart


@torch.no_grad()
def pull(parameters: Sequence[Tensor], start: Sequence[Tensor], strength: float) -> None:
    """Move parameters in place towards where they started, by this share of the way.

    Decay towards the pretrained weights instead of towards 0 (Li et al. 2018, "Explicit inductive
    bias for transfer learning": L2-SP), apart from the gradient as in AdamW.
    """
    torch._foreach_lerp_(list(parameters), list(start), strength)


def parameter_groups(
    model: PretrainedModel, weight_decay: float, layer_decay: float = 1.0, head_rate: float = 1.0
) -> list[dict[str, Any]]:
    """Every parameter that learns in exactly one group; frozen ones in none.

    Matrices decay, norms and biases (one dimension) do not.  The rate of a group is that of the run
    times its `factor`: a layer learns at `layer_decay` times the rate of the layer above it
    (Howard and Ruder 2018), the head at `head_rate` times that of the top layer.  With six layers
    and a decay of 0.8:

        head            head_rate
        layer 5         1
        layer 4         0.8
        ...
        layer 0         0.8 ** 5
        embeddings      0.8 ** 6
    """
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    top = model.top_layer
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = model.depth_of(name)
            factor = head_rate if depth > top else layer_decay ** (top - depth)
            decays = parameter.dim() > 1
            group = groups.setdefault((decays, factor), {"params": [], "names": []})
            group["params"].append(parameter)
            group["names"].append(name)
            group.update(factor=factor, weight_decay=weight_decay if decays else 0.0)
    return list(groups.values())


def describe_groups(groups: Sequence[Mapping[str, Any]], rate: float) -> str:
    """A line for each rate: how many tensors and numbers learn at it, and the first of them."""
    lines = []
    for factor in sorted({group["factor"] for group in groups}, reverse=True):
        same = [group for group in groups if group["factor"] == factor]
        names = [name for group in same for name in group["names"]]
        count = sum(p.numel() for group in same for p in group["params"])
        shown = f"{len(names)} tensors, {count:,} numbers: {names[0]}"
        lines.append(f"rate      {factor * rate:.2e}  {shown}{', ...' if names[1:] else ''}")
    return "\n".join(lines)


def new_optimizer(name: str, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of `parameter_groups`; its rate is set at each step by `set_rate`.

    adamw: two numbers are kept for each weight.
    adafactor: one for each row and column; its steps are in proportion to what they change
        (Shazeer and Stern 2018), so rates do not compare with AdamW's.
    """
    own = [{key: value for key, value in group.items() if key != "names"} for group in groups]
    if name == "adafactor":
        return torch.optim.Adafactor(own, lr=0.0)
    return torch.optim.AdamW(own, lr=0.0, fused=True)


def keep_rows_apart(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let the gradient of a large embedding table be that of the rows which a batch has used.

    A table of 30,000 rows has a gradient of 30,000 rows, though a batch uses a few hundred, and to
    allocate and fill it anew in each step takes a twelfth of the step.  So it stays sparse, until
    the optimiser wants a whole one: it gets a table that is kept from step to step, zero but in
    those rows.

        ids 7 2 7  ->  rows 2, 7 (summed)  ->  norm, clipping  ->  0 0 g2 0 0 0 0 g7 0 ...  ->  step

    So the optimiser does what it always does, with every row: AdamW also moves those that are not
    in the batch, by their running means.  A table that is also an output layer gets a whole
    gradient from there, and is left alone.  Only on the CPU; a GPU fills memory fast enough.
    """
    whole: dict[Tensor, Tensor] = {}
    used: dict[Tensor, Tensor] = {}
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    large = [m for m in tables if m.weight.numel() >= LARGE and m.weight.device.type == "cpu"]
    for module in large:
        module.sparse = module.weight.requires_grad

    def spread(*_: Any) -> None:
        for table in (module.weight for module in large):
            if table.grad is not None and table.grad.is_sparse:
                sparse = table.grad.coalesce()
                if table not in whole:
                    whole[table] = torch.zeros_like(table)
                used[table] = sparse.indices()[0]
                table.grad = whole[table].index_copy_(0, used[table], sparse.values())

    def clear(*_: Any) -> None:
        for table, rows in used.items():
            whole[table].index_fill_(0, rows, 0.0)
            table.grad = None
        used.clear()

    optimizer.register_step_pre_hook(spread)
    optimizer.register_step_post_hook(clear)


def values_of(gradient: Tensor) -> Tensor:
    """The numbers of a gradient, as a tensor to change in place; of a sparse one that is coalesced
    its rows' alone."""
    return gradient._values() if gradient.is_sparse else gradient


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


@torch.no_grad()
def normalise_gradients(model: nn.Module, count: Tensor, max_norm: float) -> Tensor:
    """Turn the gradients of a summed loss into those of its mean, clipped; returns their norm.

    The division by the count and the clipping are one multiplication, so that neither costs a pass
    over the parameters of its own.  The norm returned is that of the mean, before clipping.
    """
    learning = [p for p in model.parameters() if p.grad is not None]
    for parameter in learning:
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # a row that is there twice, summed
    gradients = [values_of(parameter.grad) for parameter in learning]
    norm = torch.nn.utils.get_total_norm(gradients) / count
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0) / count
    torch._foreach_mul_(gradients, factor)
    return norm
