"""A loss or gradient that is inf or nan: in which layer it arose.

The batch is computed once more with hooks on every layer.  Outputs are checked in the order of the
forward pass, so the first that is not finite is where the problem arose.  If all outputs and the
loss are finite, gradients are checked in the order of the backward pass, from the last layer to the
first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from minift.errors import NonFiniteError
from minift.nn.kernels import gradient_values


def stop_if_not_finite(
    value: Tensor,
    model: nn.Module,
    losses: Iterable[Callable[[], Tensor]],
    step: int,
    learning_rate: float,
) -> None:
    """`NonFiniteError` that names the first layer, if a step's loss or gradient is not finite.

    value: the sum of the step's loss and gradient norm.
    losses: one function for each batch of the step, which computes its loss again.
    """
    if not torch.isfinite(value):
        raise NonFiniteError(
            f"{describe_non_finite(model, losses, step)}; lower the learning rate (it "
            f"was {learning_rate:g})"
        )


def describe_non_finite(model: nn.Module, losses: Iterable[Callable[[], Tensor]], step: int) -> str:
    """The start of the error message: the step, and the first layer that is not finite."""
    found = next(filter(None, (first_not_finite(model, loss) for loss in losses)), None)
    where = f", first in {found}" if found else ""
    return f"step {step}: the loss or its gradient is not finite{where}; the step was not taken"


def first_not_finite(model: nn.Module, loss: Callable[[], Tensor]) -> str | None:
    """Where inf or nan arises first, such as "the output of encoder.layers.0"; None: nowhere.

    loss: computes the loss; called once.  The gradients in `model` are replaced.
    """
    outputs: list[str] = []
    gradients: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def check_gradient(gradient: Tensor) -> None:
            if not torch.isfinite(gradient).all():
                gradients.append(f"the gradient at the output of {name}")

        def check_output(module: nn.Module, inputs: Any, output: Any) -> None:
            if not torch.isfinite(output).all():
                outputs.append(f"the output of {name}")
            if output.requires_grad:
                output.register_hook(check_gradient)

        return check_output

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
        if p.grad is not None and not torch.isfinite(gradient_values(p.grad)).all()
    )
    loss_itself = [] if torch.isfinite(total) else ["the loss"]
    return next(iter([*outputs, *loss_itself, *gradients, *parameters]), None)
