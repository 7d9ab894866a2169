"""A loss that is no number any more: which layer it began in.

The batch is computed once more under observation.  Layers are asked in the order in which they
compute, so the first that puts out inf or nan is where it began; if all outputs are finite, the
gradients are asked, which flow from the last layer to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from minift.errors import NotFinite
from minift.training.optim import values_of


def stop_if_not_finite(
    value: Tensor,
    model: nn.Module,
    losses: Iterable[Callable[[], Tensor]],
    step: int,
    learning_rate: float,
) -> None:
    """`NotFinite` naming the first layer if `value`, the loss and norm of a step, is not finite.

    losses: compute the loss of each batch of the step again.
    """
    if not torch.isfinite(value):
        raise NotFinite(
            f"{not_finite(model, losses, step)}; lower --learning-rate (it was {learning_rate:g})"
        )


def not_finite(model: nn.Module, losses: Iterable[Callable[[], Tensor]], step: int) -> str:
    """What people are told: the step, and the first layer where inf or nan arose."""
    found = next(filter(None, (first_not_finite(model, loss) for loss in losses)), None)
    where = f", first in {found}" if found else ""
    return f"step {step}: the loss or its gradient is not finite{where}; the step was not taken"


def first_not_finite(model: nn.Module, loss: Callable[[], Tensor]) -> str | None:
    """Where inf or nan arises first, as "the output of encoder.layers.0..."; None: nowhere."""
    outputs: list[str] = []
    gradients: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def note_gradient(gradient: Tensor) -> None:
            if not torch.isfinite(gradient).all():
                gradients.append(f"the gradient at the output of {name}")

        def note_output(module: nn.Module, inputs: Any, output: Any) -> None:
            if not torch.isfinite(output).all():
                outputs.append(f"the output of {name}")
            if output.requires_grad:
                output.register_hook(note_gradient)

        return note_output

    leaves = [(name, module) for name, module in model.named_modules() if not [*module.children()]]
    hooks = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        model.zero_grad()
        total = loss()
        if not outputs:
            total.backward()
    finally:
        for hook in hooks:
            hook.remove()
    parameters = (
        f"the gradient of {name}"
        for name, p in model.named_parameters()
        if p.grad is not None and not torch.isfinite(values_of(p.grad)).all()
    )
    end = [] if torch.isfinite(total) else ["the loss"]
    return next(iter([*outputs, *end, *gradients, *parameters]), None)
