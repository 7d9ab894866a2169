"""Which parameters learn, how fast, and when.

References: Loshchilov and Hutter 2019, "Decoupled weight decay regularization" (AdamW), with bias
correction, which the original BERT lacked and small data needs (Mosbach et al. 2021); Shazeer and
Stern 2018, "Adafactor", which T5 was made with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: matrices decay, norms and biases (one dimension) do not.

    Frozen parameters are in neither; every other one is in exactly one.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.dim() > 1]
    plain = [p for p in trainable if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def new_optimizer(model: nn.Module, name: str, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser; its rate is set at each step by `set_rate`.

    adamw: two numbers are kept for each weight.
    adafactor: one for each row and column; its steps are in proportion to what they change
        (Shazeer and Stern 2018), so rates do not compare with AdamW's.
    """
    groups = parameter_groups(model, weight_decay)
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=0.0)
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def linear_schedule(step: int, total: int, warmup: int) -> float:
    """Factor of the rate at a step from 0: up to 1 during warm-up, then down to 0 at the end.

    >>> [linear_schedule(step, total=6, warmup=2) for step in range(6)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup:
        return step / warmup
    return (total - step) / max(1, total - warmup)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def normalise_gradients(model: nn.Module, count: Tensor, max_norm: float) -> Tensor:
    """Turn the gradients of a summed loss into those of its mean, clipped; returns their norm.

    The division by the count and the clipping are one multiplication, so that neither costs a pass
    over the parameters of its own.  The norm returned is that of the mean, before clipping.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients) / count
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0) / count
    torch._foreach_mul_(gradients, factor)
    return norm
