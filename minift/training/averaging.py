"""Weights that are better than the last ones: averages of them, for evaluation and for saving.

Along the run (Izmailov et al. 2018, "Averaging weights leads to wider optima"): the mean of the
weights after each of the last steps.  Towards the start (Wortsman et al. 2022, "Robust fine-tuning
of zero-shot models", WiSE-FT): a point on the line back to the pretrained weights, which keeps more
of what they knew.  With both,

    saved = share * start + (1 - share) * mean of the last steps

Training itself goes on with its own weights.  A parameter that the checkpoint lacked, such as a new
head, has no pretrained value to go back to and is left out of the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from minift.models.base import PretrainedModel
from minift.training.options import TrainOptions


class Averages:
    """The averages of a run, kept for the parameters that learn."""

    def __init__(self, model: PretrainedModel, options: TrainOptions, total: int):
        """Where training starts; total: steps of the whole run."""
        self.share = options.average_start
        self.first = total - round(total * options.average_last)  # the mean begins behind this step
        learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(learning.values()) if self.share or self.first < total else []
        new = model.report.new if model.report else ()
        self.start = [
            None if name in new else p.detach().clone()
            for name, p in learning.items()
            if self.share
        ]
        # Named, so that a state of an interrupted run can hold it.
        self.mean = {
            name: torch.zeros_like(p) for name, p in learning.items() if self.first < total
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after `step` steps into the mean."""
        if self.mean and step > self.first:
            mean, now = list(self.mean.values()), self.parameters
            torch._foreach_lerp_(mean, now, 1 / (step - self.first))

    @contextmanager
    @torch.no_grad()
    def in_place(self, step: int) -> Iterator[None]:
        """Within, the model has its averages after `step` steps; then its own weights again."""
        own = [p.detach().clone() for p in self.parameters]
        if self.mean and step > self.first:
            for parameter, mean in zip(self.parameters, self.mean.values(), strict=True):
                parameter.copy_(mean)
        for parameter, start in zip(self.parameters, self.start, strict=False):
            if start is not None:
                parameter.lerp_(start, self.share)
        try:
            yield
        finally:
            for parameter, value in zip(self.parameters, own, strict=True):
                parameter.copy_(value)
