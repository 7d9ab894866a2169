"""Everything that changes while a run trains.  From it, `--resume` continues with the same bits.

    state.safetensors
        model.NAME               weights
        optimizer.NAME.SLOT      the optimiser's moments of a parameter
        mean.NAME                the mean of the weights after the last steps (SWA)
        random.cpu, random.cuda  torch's random generators: of the CPU, and of the run's GPU
    state.json                   `TrainerState`

Everything else in the loop follows from the options, the data and this state, such as the learning
rate of a step, the batches that are left of an epoch (plan.py), and which layers are frozen.
tests/training/test_state.py compares all that the loop can reach before and after steps, and fails
if something changes that is not listed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minift.options import bounded, check_fields


@dataclass
class Throughput:
    """How much a run has processed, in all its processes."""

    seconds: float = 0.0  # in training steps; evaluations and saves are left out
    examples: int = bounded(0, 0, math.inf)
    real_tokens: int = bounded(0, 0, math.inf)  # without padding
    all_tokens: int = bounded(0, 0, math.inf)  # with padding


@dataclass
class EpochOrder:
    """A random order of the records in an epoch, in batches; see `plan.py`."""

    seed: int
    batch_size: int
    by_length: bool
    used: int = bounded(0, 0, math.inf)  # records of it that were trained on


@dataclass
class TrainerState:
    """The position of a run, and the numbers that its next steps and log lines depend on."""

    step: int = bounded(0, 0, math.inf)  # complete steps of the run's plan
    total_steps: int = bounded(0, 0, math.inf)  # of the plan
    epoch: int = bounded(0, 0, math.inf)  # complete epochs
    orders: list[EpochOrder] = field(default_factory=list)  # of the current epoch
    examples: int = bounded(0, 0, math.inf)  # features in the training data, whose orders these are
    max_micro_batch: int | None = None  # records in a forward pass since memory ran out
    averaged: int = bounded(0, 0, math.inf)  # steps in the mean of weights
    skipped: int = bounded(0, 0, math.inf)  # steps with a loss or gradient that was not finite
    scored_by: str = ""  # metric and dev data of the best score
    best_score: float | None = None
    best_step: int = bounded(0, 0, math.inf)
    evaluations_since_best: int = bounded(0, 0, math.inf)
    loss_sum: float = 0.0  # of the losses since the last logged step
    loss_count: float = 0.0  # number of the losses in `loss_sum`, or their total weight
    grad_norm: float = 0.0  # of the last step that was not skipped
    log_lines: int = bounded(0, 0, math.inf)  # lines of log.jsonl so far
    throughput: Throughput = field(default_factory=Throughput)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainerState:
        """The inverse of `dataclasses.asdict`.

        Raises `TypeError` or `KeyError` for other fields, `ValueError` for one of another type.
        """
        orders = [EpochOrder(**order) for order in values["orders"]]
        throughput = Throughput(**values["throughput"])
        state = cls(**{**values, "orders": orders, "throughput": throughput})
        for part in (state, throughput, *orders):
            check_fields(type(part), vars(part))
        return state

    def count_scores_of(self, scored_by: str) -> None:
        """Forget the best score, in place, if other data or another metric measured it."""
        if self.scored_by != scored_by:
            self.scored_by, self.best_score, self.evaluations_since_best = scored_by, None, 0

    def out_of_patience(self, patience: int) -> bool:
        """Whether early stopping ends the run; patience 0: never."""
        return 0 < patience <= self.evaluations_since_best
