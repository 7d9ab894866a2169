"""The gradient of one optimiser step.

    for each batch of the step:   loss, count = task.loss(model, batch);  backward(loss)
    gradient = sum of gradients / sum of counts, clipped

Losses are summed over all batches and divided once, by the number of records or tokens that they
count.  So the accumulated gradient of small batches equals that of one large batch, up to rounding
and dropout's random numbers, even where the batches count different numbers of tokens.  For the
same reason a batch that does not fit into memory may be split into micro-batches: the step is the
same, again up to rounding and dropout's random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minift.data.batching import batched
from minift.device import autocast
from minift.errors import NonFiniteError, UserError
from minift.models.base import PretrainedModel
from minift.tasks.base import Batch, Feature, Task
from minift.terminal import print_line
from minift.training.nonfinite import describe_non_finite
from minift.training.optim import average_and_clip_gradients
from minift.training.options import TrainOptions
from minift.training.state import TrainerState

MAX_SHOWN = 8  # record numbers in an error message


class GradientComputer:
    """Computes the gradient of each step."""

    def __init__(
        self,
        task: Task,
        model: PretrainedModel,
        features: Sequence[Feature],
        options: TrainOptions,
        state: TrainerState,
    ):
        """state: counts what is processed and skipped, and keeps the size of the micro-batches."""
        self.task, self.model, self.features = task, model, features
        self.options, self.state = options, state

    def step(self, batches: Sequence[Sequence[int]], step: int) -> tuple[Tensor, Tensor] | None:
        """Compute the gradient of the mean loss, clipped, into each parameter's `.grad`.

        batches: indices of features, batch by batch.
        step: the step's number, for messages.

        Returns (sum of losses, their count) as one tensor (2,), and the gradient's norm before
        clipping; None if the step is skipped because its loss or gradient is not finite.
        Raises `NonFiniteError` if --max-skipped-steps allows no more skipped steps, and `UserError`
        if memory runs out.
        """
        while True:
            if size := self.state.max_micro_batch:
                batches = [part for batch in batches for part in batched(batch, size)]
            try:
                done = [self._backward(batch) for batch in batches]
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, whose traceback keeps the tensors of the failed pass alive.
            self._halve_micro_batch(batches, step)
        totals = torch.stack([loss_and_count for loss_and_count, _ in done]).sum(0)  # (2,)
        throughput = self.state.throughput
        for _, batch in done:
            throughput.real_tokens += batch.real_tokens
            throughput.all_tokens += batch.all_tokens
        throughput.examples += sum(map(len, batches))
        norm = average_and_clip_gradients(self.model, totals[1].float(), self.options.max_grad_norm)
        if torch.isfinite(norm + totals[0]):
            return totals, norm
        self._skip_or_fail(batches, step)
        return None

    def _forward(self, indices: Sequence[int]) -> tuple[Batch, Tensor, Tensor]:
        batch = self.task.collate([self.features[i] for i in indices]).to(self.model.device)
        with autocast(self.model.device, self.options.precision):
            return batch, *self.task.loss(self.model, batch)

    def _backward(self, indices: Sequence[int]) -> tuple[Tensor, Batch]:
        """Add the gradients of a batch; returns its (sum of losses, their count), and the batch."""
        batch, loss, count = self._forward(indices)
        loss.backward()
        return torch.stack([loss.detach(), count]).double(), batch

    def _halve_micro_batch(self, batches: Sequence[Sequence[int]], step: int) -> None:
        """After memory ran out: halve the micro-batch; `UserError` unless --auto-micro-batch."""
        self.model.zero_grad()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        largest = max(map(len, batches))
        tokens = max(self.features[i].length for batch in batches for i in batch)
        size = f"{largest} records of up to {tokens} tokens"
        failure = f"step {step}: out of memory for a batch of {size}"
        if largest == 1:
            raise UserError(f"{failure}; lower --max-length, or train a smaller model")
        if not self.options.auto_micro_batch:
            raise UserError(
                f"{failure}; take a smaller batch size or --max-length, or add --auto-micro-batch, "
                "which keeps the step as large"
            )
        self.state.max_micro_batch = largest // 2
        print_line(
            f"{failure}: from now on at most {largest // 2} records in a forward pass; "
            "the optimiser step stays the same"
        )

    def _skip_or_fail(self, batches: Sequence[Sequence[int]], step: int) -> None:
        """Skip a step with a loss or gradient that is not finite.

        Raises `NonFiniteError` beyond --max-skipped-steps.  The printed line and the error name the
        step's records and the first layer whose output or gradient is not finite.
        """
        losses = (lambda batch=batch: self._forward(batch)[1] for batch in batches)
        numbers = sorted({self.features[i].record + 1 for batch in batches for i in batch})
        records = ", ".join(map(str, numbers[:MAX_SHOWN]))
        if len(numbers) > MAX_SHOWN:
            records += ", ..."
        where = describe_non_finite(self.model, losses, step)
        failure = f"{where}; its training records were {records}"
        self.model.zero_grad()
        self.state.skipped += 1
        if self.state.skipped <= self.options.max_skipped_steps:
            print_line(f"{failure} (skipped steps so far: {self.state.skipped})")
            return
        raise NonFiniteError(
            f"{failure}; lower the learning rate (it was {self.options.learning_rate:g}), "
            "correct the records, or allow --max-skipped-steps"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, or of Python, says that memory ran out."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return "can't allocate memory" in str(error) or "DefaultCPUAllocator" in str(error)
