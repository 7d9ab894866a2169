"""The reference's side of a comparison, ours beside it, and how they take turns."""

import statistics
import time

import torch

from minift.models.t5 import IGNORE
from minift.training.optim import (
    keep_rows_apart,
    new_optimizer,
    normalise_gradients,
    parameter_groups,
    set_rate,
)
from minift.training.step import autocast


def alternate(sides, rounds):
    """Let sides take turns: (name -> seconds of each round, name -> what it returned last).

    sides: name -> a function of the round's number.  Round -1 warms up and is not counted.
    """
    seconds = {name: [] for name in sides}
    found = {}
    for i in range(-1, rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            found[name] = side(i)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds, found


def times_as_fast(ours, theirs):
    """Median, least and most of their seconds over ours, round by round.

    >>> times_as_fast([1.0, 2.0, 1.0], [2.0, 3.0, 1.8])
    ('1.80', '1.50 ... 2.00')
    """
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    return f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} ... {ratios[-1]:.2f}"


def wider(x, filling=0):
    """(B, T) padded for a GPU to a multiple of eight, as its collators do: other widths slow it."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % 8), value=filling) if x.is_cuda else x


class Reference(torch.nn.Module):
    """The reference's model behind our calls, so that a task can score what it says."""

    def __init__(self, auto_class, source, **settings):
        super().__init__()
        import transformers  # here, so that --help works without the reference

        transformers.logging.set_verbosity_error()
        self.model = getattr(transformers, auto_class).from_pretrained(source, **settings)
        self.config = self.model.config

    @property
    def device(self):
        return self.model.device

    def forward(self, ids, mask, types):
        width = ids.shape[1]
        outputs = self.model(*(wider(x) for x in (ids, mask, types)))
        if "start_logits" in outputs:
            return outputs.start_logits[:, :width], outputs.end_logits[:, :width]
        return outputs.logits if outputs.logits.dim() == 2 else outputs.logits[:, :width]

    def target_loss(self, ids, mask, labels, label_smoothing=0.0):
        ids, mask, labels = wider(ids), wider(mask), wider(labels, IGNORE)
        logits = self.model(ids, mask, labels=labels).logits
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=label_smoothing
        )
        return total, (labels != IGNORE).sum().to(total.dtype)

    @torch.inference_mode()
    def generate(self, ids, mask, generator=None, **settings):
        return self.model.generate(ids, attention_mask=mask, **settings)


def classifier(auto_class):
    """A reference with a head that has as many rows as ours."""
    return lambda task, source: Reference(
        auto_class, source, num_labels=len(getattr(task, "labels", ("start", "end")))
    )


def with_decoder(task, source):
    """A reference whose dropout is what the options say."""
    dropout = task.options.dropout
    settings = {} if dropout is None else {"dropout_rate": dropout}
    return Reference("AutoModelForSeq2SeqLM", source, **settings)


# Task -> the reference for it.
REFERENCES = {
    "classification": classifier("AutoModelForSequenceClassification"),
    "ner": classifier("AutoModelForTokenClassification"),
    "qa": classifier("AutoModelForQuestionAnswering"),
    "summarization": with_decoder,
}
# Task -> the metrics to show.
COLUMNS = {
    "classification": ("accuracy", "matthews_correlation"),
    "ner": ("f1",),
    "qa": ("f1", "exact", "f1_at_zero", "exact_at_zero", "answerable_f1", "answerable_exact"),
    "summarization": ("rougeL", "rouge1", "rouge2", "words"),
}


def loss_of(side, features):
    """Sum and count of a batch's losses, in the precision that was asked for."""
    device = side.model.device
    with autocast(device, side.options.precision):
        return side.task.loss(side.model, side.task.collate(features).to(device))


class Ours:
    """One training step of minift, as in training/run.py."""

    def __init__(self, task, model, options):
        self.task, self.model, self.options = task, model, options
        self.optimizer = new_optimizer(
            options.optimizer, parameter_groups(model, options.weight_decay)
        )
        keep_rows_apart(model, self.optimizer)

    def step(self, features, rate):
        self.model.train()
        set_rate(self.optimizer, rate)
        loss, count = loss_of(self, features)
        loss.backward()
        normalise_gradients(self.model, count, self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Theirs:
    """The same step with the reference's model, in an ordinary loop around it.

    fused: torch's fused AdamW, the faster of the two that people use.
    """

    def __init__(self, task, model, options, fused=True):
        self.task, self.model, self.options = task, model, options
        groups = [
            {"params": [], "factor": 1.0, "weight_decay": options.weight_decay},
            {"params": [], "factor": 1.0, "weight_decay": 0.0},
        ]
        for parameter in model.parameters():
            groups[parameter.dim() <= 1]["params"].append(parameter)
        if options.optimizer == "adafactor":
            self.optimizer = torch.optim.Adafactor(groups, lr=0.0)
        else:
            self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=fused)

    def step(self, features, rate):
        self.model.train()
        set_rate(self.optimizer, rate)
        loss, count = loss_of(self, features)
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
