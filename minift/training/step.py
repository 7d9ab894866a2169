"""The gradients of one step, whatever happens on the way.

    for each batch of the step:   loss, count = task.loss(model, batch);  backward(loss)
    gradients / sum of counts, clipped

The losses are summed and divided once by what they count, so that accumulating small batches gives
the gradient of the big one also where they hold different numbers of records or tokens.  So a batch
that does not fit into memory may be cut in two, and the step is still the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minift.data.batching import parts
from minift.errors import InputError, NotFinite
from minift.models.base import PretrainedModel
from minift.tasks.base import Batch, Feature, Task
from minift.training.nonfinite import not_finite
from minift.training.optim import normalise_gradients
from minift.training.options import TrainOptions

SHOWN = 8  # record numbers in a message


@dataclass
class Work:
    """What training did since it was started or resumed."""

    seconds: float = 0.0
    examples: int = 0
    real_tokens: int = 0
    all_tokens: int = 0


class Gradients:
    """Computes the gradients of a step, from the numbers of the features in each of its batches."""

    def __init__(
        self,
        task: Task,
        model: PretrainedModel,
        features: Sequence[Feature],
        options: TrainOptions,
        work: Work,
    ):
        self.task, self.model, self.features = task, model, features
        self.options, self.work = options, work
        self.skipped = 0  # steps left out, since their loss was not finite
        self.most: int | None = None  # records in a batch, since memory ran out

    def of(self, batches: Sequence[Sequence[int]], step: int) -> tuple[Tensor, Tensor] | None:
        """Leave the gradients of the mean loss, clipped, in the parameters.

        Returns (sum of losses, its count) as one tensor, and the gradient's norm before clipping;
        None for a step to be left out, as `skip_steps` allows.  `NotFinite` where it does not,
        `InputError` where memory runs out.
        """
        while True:
            if self.most is not None:
                batches = [part for batch in batches for part in parts(batch, self.most)]
            try:
                done = [self._backward(batch) for batch in batches]
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, which would keep what the failed pass has computed alive.
            self._halve(batches, step)
        totals = torch.stack([part for part, _ in done]).sum(0)
        for _, batch in done:
            self.work.real_tokens += batch.real_tokens
            self.work.all_tokens += batch.all_tokens
        self.work.examples += sum(map(len, batches))
        norm = normalise_gradients(self.model, totals[1].float(), self.options.max_grad_norm)
        if torch.isfinite(norm + totals[0]):
            return totals, norm
        self._not_finite(batches, step)
        return None

    def _forward(self, indices: Sequence[int]) -> tuple[Batch, Tensor, Tensor]:
        batch = self.task.collate([self.features[i] for i in indices]).to(self.model.device)
        with autocast(self.model.device, self.options.precision):
            return batch, *self.task.loss(self.model, batch)

    def _backward(self, indices: Sequence[int]) -> tuple[Tensor, Batch]:
        """Of one batch (2,) the sum of losses and its count; its gradients join those before."""
        batch, loss, count = self._forward(indices)
        loss.backward()
        return torch.stack([loss.detach(), count]).double(), batch

    def _halve(self, batches: Sequence[Sequence[int]], step: int) -> None:
        """Memory ran out: from now on with batches half as large, if that is wanted."""
        self.model.zero_grad()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        largest = max(map(len, batches))
        tokens = max(self.features[i].length for batch in batches for i in batch)
        sizes = f"step {step}: no memory for a batch of {largest} records of up to {tokens} tokens"
        if largest == 1:
            raise InputError(f"{sizes}; lower --max-length, or train a smaller model")
        if not self.options.halve_batches:
            raise InputError(
                f"{sizes}; lower --batch-size (--accumulation keeps the step as large) or "
                "--max-length, or add --halve-batches"
            )
        self.most = largest // 2
        print(f"{sizes}: from now on at most {self.most}, in steps as large as before", flush=True)

    def _not_finite(self, batches: Sequence[Sequence[int]], step: int) -> None:
        """Say which records and which layer it was; `NotFinite` unless the step may be left out."""
        again = (lambda batch=batch: self._forward(batch)[1] for batch in batches)
        numbers = sorted({self.features[i].record + 1 for batch in batches for i in batch})
        shown = ", ".join(map(str, numbers[:SHOWN])) + (", ..." if len(numbers) > SHOWN else "")
        what = f"{not_finite(self.model, again, step)}; its training records were {shown}"
        self.model.zero_grad()
        self.skipped += 1
        if self.skipped <= self.options.skip_steps:
            print(f"{what} (left out, {self.skipped} so far)", flush=True)
            return
        raise NotFinite(
            f"{what}; lower --learning-rate (it was {self.options.learning_rate:g}), or mend them"
        )


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is torch's, or the system's, way to say that there is no memory."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return "can't allocate memory" in str(error) or "DefaultCPUAllocator" in str(error)
