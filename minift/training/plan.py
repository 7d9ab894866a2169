"""The plan of a run: its epochs, the steps of each, and the learning rate of each step.

    step     gradient_accumulation_steps batches of batch_size records
    epoch    one pass over the records, in an order that follows from the seed and its number
    run      --epochs of them, or more for --min-steps

The plan follows from the options and the lengths of the features.  A position in it is counted in
records, so a run may be resumed with another batch size: the records of the epoch that are not used
yet are drawn again, in batches of the new size, and the step is that of the new plan.

    batch size 2, after step 3 of 5     c a | f h | b d             then stopped
    resumed with batch size 3           e j i | g                   as step 3 and 4 of 4

With other data the records of an epoch have another order, and as many of it count as used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from minift.data.batching import chunks, training_batches
from minift.errors import UserError
from minift.training.options import TrainOptions
from minift.training.schedules import SCHEDULES
from minift.training.state import EpochOrder, TrainerState


@dataclass(frozen=True)
class PlannedStep:
    """A step before it is taken.

    batches: batches of indices of features.
    number: of the step in its epoch, from 0.
    opens_epoch: it is the first step of its epoch in this process.
    ends_epoch: it is the last step of its epoch.
    """

    epoch: int
    number: int
    batches: list[list[int]]
    opens_epoch: bool
    ends_epoch: bool


class Plan:
    """Epochs and steps of a run.

    steps_per_epoch, total_steps: of the plan from its beginning.
    """

    def __init__(self, lengths: Sequence[int], options: TrainOptions):
        """lengths: of the features, in tokens."""
        self.lengths, self.options = lengths, options
        batches = math.ceil(len(lengths) / options.batch_size)
        self.steps_per_epoch = math.ceil(batches / options.gradient_accumulation_steps)
        self.epochs = max(options.epochs, math.ceil(options.min_steps / self.steps_per_epoch))
        self.total_steps = self.steps_per_epoch * self.epochs
        self.warmup_steps = math.ceil(self.total_steps * options.warmup_ratio)

    def learning_rate(self, step: int) -> float:
        """The learning rate of the step after `step` complete ones."""
        schedule = SCHEDULES[self.options.lr_scheduler_type]
        factor = schedule(step, self.total_steps, self.warmup_steps)
        return self.options.learning_rate * factor

    def continue_from(self, state: TrainerState) -> None:
        """Fit the position to this plan, in place, where options or data have changed.

        `UserError` if the changed plan has no step left.
        """
        finished = 0 < state.total_steps == state.step
        if state.examples != len(self.lengths):
            used = sum(order.used for order in state.orders)
            state.orders = [replace(self._new_order(), used=min(used, len(self.lengths)))]
        elif replace(state.orders[-1], used=0) != self._new_order():
            state.orders.append(self._new_order())
        if not finished and not self._steps_left(state):  # fewer records than were used
            state.epoch, state.orders = state.epoch + 1, [self._new_order()]
        state.examples, state.total_steps = len(self.lengths), self.total_steps
        if finished and state.epoch >= self.epochs:
            state.step = self.total_steps
            return
        if state.epoch >= self.epochs:
            raise UserError(
                f"--resume: the run has {state.epoch} complete epochs, and the changed options "
                f"and data plan {self.epochs}, so no step is left; give more --epochs"
            )
        state.step = (state.epoch + 1) * self.steps_per_epoch - len(self._steps_left(state))

    def steps(self, state: TrainerState) -> Iterator[PlannedStep]:
        """The steps that are left.  `advance` is called after each."""
        for epoch in range(state.epoch, self.epochs):
            left = self._steps_left(state)
            for i, batches in enumerate(left):
                number = self.steps_per_epoch - len(left) + i
                yield PlannedStep(epoch, number, batches, i == 0, i + 1 == len(left))

    def advance(self, state: TrainerState, step: PlannedStep) -> None:
        """Move the position past a step, in place."""
        state.step += 1
        state.orders[-1].used += sum(map(len, step.batches))
        if step.ends_epoch:
            state.epoch, state.orders = step.epoch + 1, [self._new_order()]

    def _new_order(self) -> EpochOrder:
        options = self.options
        return EpochOrder(options.seed, options.batch_size, options.group_by_length)

    def _steps_left(self, state: TrainerState) -> list[list[list[int]]]:
        """The steps left of the current epoch, each a list of batches, each a list of indices."""
        left, batches = list(range(len(self.lengths))), []
        for order in state.orders:
            lengths = [self.lengths[i] for i in left]
            batches = training_batches(
                lengths, order.batch_size, order.seed, state.epoch, order.by_length
            )
            batches = _without_first([[left[i] for i in batch] for batch in batches], order.used)
            left = sorted(i for batch in batches for i in batch)
        return chunks(batches, self.options.gradient_accumulation_steps)


def _without_first(batches: Sequence[list[int]], count: int) -> list[list[int]]:
    """The batches without their first `count` items.

    >>> _without_first([[4, 7], [1, 2], [3]], 3)
    [[2], [3]]
    """
    rest = []
    for batch in batches:
        if count < len(batch):
            rest.append(batch[count:])
        count = max(0, count - len(batch))
    return rest
