"""Averages of weights, for evaluation and for the saved model.

SWA: the mean of the weights after each of the last steps (Izmailov et al. 2018, "Averaging weights
leads to wider optima and better generalization").
WiSE-FT: a point on the line between the pretrained and the fine-tuned weights (Wortsman et al.
2022, "Robust fine-tuning of zero-shot models"), which forgets less.  With both,

    saved = alpha * mean of the last steps + (1 - alpha) * pretrained

Training continues with its own weights.  WiSE-FT leaves out what has no pretrained value, such as a
new head (`pretrained_parameters` in freezing.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch

from minift.models.base import PretrainedModel
from minift.nn.kernels import lerp_tensors_
from minift.training.options import TrainOptions
from minift.training.state import TrainerState


class WeightAverages:
    """The averages of a run, over the trainable parameters."""

    def __init__(
        self,
        model: PretrainedModel,
        options: TrainOptions,
        total_steps: int,
        pretrained: Collection[str],
    ):
        """Called before the first step, with the pretrained weights in the model.

        pretrained: the names of the parameters that WiSE-FT averages.
        """
        self.pretrained_share = 1 - options.wise_ft_alpha
        # The mean covers the steps after this one.
        self.first = total_steps - round(total_steps * options.swa_fraction)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        averages = self.pretrained_share or self.first < total_steps
        self.parameters = list(trained.values()) if averages else []
        self.pretrained = [
            p.detach().clone() if name in pretrained else None
            for name, p in trained.items()
            if self.pretrained_share
        ]
        # By name, so that the state of an interrupted run can hold it.
        self.mean = {
            name: torch.zeros_like(p) for name, p in trained.items() if self.first < total_steps
        }

    @torch.no_grad()
    def update(self, state: TrainerState) -> None:
        """Add the weights after a step to the mean; counts them in the state."""
        state.averaged = state.averaged + 1 if self.mean and state.step > self.first else 0
        if state.averaged:
            lerp_tensors_(list(self.mean.values()), self.parameters, 1 / state.averaged)

    @contextmanager
    @torch.no_grad()
    def applied(self, state: TrainerState) -> Iterator[None]:
        """In this context, the model has the averages so far, not its own weights."""
        own = [p.detach().clone() for p in self.parameters]
        if self.mean and state.averaged:
            for parameter, mean in zip(self.parameters, self.mean.values(), strict=True):
                parameter.copy_(mean)
        for parameter, pretrained in zip(self.parameters, self.pretrained, strict=False):
            if pretrained is not None:
                parameter.lerp_(pretrained, self.pretrained_share)
        try:
            yield
        finally:
            for parameter, value in zip(self.parameters, own, strict=True):
                parameter.copy_(value)
