"""Both sides of a comparison, minift and its peer (`transformers`), and how they alternate."""

import contextlib
import statistics
import time

import torch

from minift.data.batching import IGNORE_INDEX
from minift.device import autocast
from minift.nn.kernels import sparse_embedding_gradients
from minift.training.optim import (
    average_and_clip_gradients,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)

SPEED_RATIO = "times faster minift is: above 1 is better"


def alternate(sides, rounds):
    """Run the sides in turn: (name -> seconds of each round, name -> its last return value).

    sides: name -> a function of the round's number.  Round -1 is a warmup and not counted.
    """
    seconds = {name: [] for name in sides}
    results = {}
    for i in range(-1, rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            results[name] = side(i)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds, results


def speed_columns(ours, peer):
    """Two columns of a table: the peer's seconds over minift's, median and range of all rounds.

    >>> list(speed_columns([1.0, 2.0, 1.0], [2.0, 3.0, 1.8]).values())
    ['1.80', '1.50 ... 2.00']
    """
    ratios = sorted(b / a for a, b in zip(ours, peer, strict=True))
    span = f"{ratios[0]:.2f} ... {ratios[-1]:.2f}"
    return {SPEED_RATIO: f"{statistics.median(ratios):.2f}", "from ... to": span}


def pad_to_multiple_of_8(x, value=0):
    """On a GPU pad (B, T) to a multiple of eight, as the peer's collators do; else it is slower."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % 8), value=value) if x.is_cuda else x


class PeerModel(torch.nn.Module):
    """A model of `transformers` with the call signatures of minift's, so that a task can use it."""

    def __init__(self, auto_class, source, **settings):
        super().__init__()
        import transformers  # here, so that --help works without it

        transformers.logging.set_verbosity_error()
        self.model = getattr(transformers, auto_class).from_pretrained(source, **settings)
        self.config = self.model.config

    @property
    def device(self):
        return self.model.device

    def forward(self, input_ids, attention_mask, token_type_ids):
        length = input_ids.shape[1]
        inputs = (pad_to_multiple_of_8(x) for x in (input_ids, attention_mask, token_type_ids))
        outputs = self.model(*inputs)
        if "start_logits" in outputs:
            return outputs.start_logits[:, :length], outputs.end_logits[:, :length]
        return outputs.logits if outputs.logits.dim() == 2 else outputs.logits[:, :length]

    def target_loss(self, input_ids, attention_mask, labels, label_smoothing=0.0):
        input_ids = pad_to_multiple_of_8(input_ids)
        attention_mask = pad_to_multiple_of_8(attention_mask)
        labels = pad_to_multiple_of_8(labels, IGNORE_INDEX)
        logits = self.model(input_ids, attention_mask, labels=labels).logits
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=label_smoothing
        )
        return total, (labels != IGNORE_INDEX).sum().to(total.dtype)

    def prepacked_for_generation(self, rows):
        return contextlib.nullcontext()  # only minift's models prepare their weights

    @torch.inference_mode()
    def generate(self, input_ids, attention_mask, generator=None, **settings):
        return self.model.generate(input_ids, attention_mask=attention_mask, **settings)


def encoder_peer(auto_class):
    """(task, checkpoint) -> an encoder of `transformers` with as many labels as the task."""
    return lambda task, source: PeerModel(auto_class, source, num_labels=len(task.labels))


def seq2seq_peer(task, source):
    """An encoder-decoder of `transformers` with the dropout of the options."""
    dropout = task.options.dropout
    settings = {} if dropout is None else {"dropout_rate": dropout}
    return PeerModel("AutoModelForSeq2SeqLM", source, **settings)


# Task -> a function of (task, checkpoint) that returns the peer's model.
PEERS = {
    "classification": encoder_peer("AutoModelForSequenceClassification"),
    "ner": encoder_peer("AutoModelForTokenClassification"),
    "qa": encoder_peer("AutoModelForQuestionAnswering"),
    "summarization": seq2seq_peer,
}
# Task -> the metrics that the table shows.
COLUMNS = {
    "classification": ("accuracy", "matthews_correlation"),
    "ner": ("f1",),
    "qa": ("f1", "exact", "f1_at_zero", "exact_at_zero", "answerable_f1", "answerable_exact"),
    "summarization": ("rougeL", "rouge1", "rouge2", "words"),
}


def loss_of(side, features):
    """Sum and count of a batch's losses, in the precision of the options."""
    device = side.model.device
    with autocast(device, side.options.precision):
        return side.task.loss(side.model, side.task.collate(features).to(device))


class MiniftStep:
    """One training step of minift, as in training/run.py."""

    def __init__(self, task, model, options):
        self.task, self.model, self.options = task, model, options
        self.optimizer = make_optimizer(
            options.optimizer, parameter_groups(model, options.weight_decay)
        )
        sparse_embedding_gradients(model, self.optimizer)

    def step(self, features, learning_rate):
        self.model.train()
        set_learning_rate(self.optimizer, learning_rate)
        loss, count = loss_of(self, features)
        loss.backward()
        average_and_clip_gradients(self.model, count, self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class PeerStep:
    """The same training step with a model of `transformers`, in an ordinary PyTorch loop.

    fused: torch's fused AdamW, the faster of its two usual implementations.
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

    def step(self, features, learning_rate):
        self.model.train()
        set_learning_rate(self.optimizer, learning_rate)
        loss, count = loss_of(self, features)
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
