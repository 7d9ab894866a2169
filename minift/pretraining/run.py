"""Pre-training: shards of plain text in, a T5 or a BERT with a tokenizer of its own out.

    shards -> tokenizer (from a part of them) -> tokens.bin -> chunks -> gaps -> steps -> model

With `--model` a model that is there already goes on with more text, and with its own tokenizer
(Gururangan et al. 2020, "Don't stop pretraining").

All of it is in `--output-dir`; with `--resume` a run that was killed goes on from its last saved
state to the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minift import hub
from minift.data.batching import parts, progress
from minift.errors import InputError
from minift.files import read_json, write_json
from minift.models.base import CONFIG, PretrainedModel
from minift.pretraining.base import ModelOptions, Objective
from minift.pretraining.corpus import Chunks, read_documents, write_tokens
from minift.pretraining.masked_lm import Masks
from minift.pretraining.span_corruption import Gaps
from minift.tasks.base import check_range, option
from minift.text.tokenizer import Tokenizer
from minift.training.checkpoint import Progress, load_state, remove_state, save_state
from minift.training.freezing import learn_head
from minift.training.log import Log, environment
from minift.training.nonfinite import stop_if_not_finite
from minift.training.optim import new_optimizer, normalise_gradients, parameter_groups, set_rate
from minift.training.options import as_dict, check_device, check_precision
from minift.training.run import describe_model, pick_device
from minift.training.run_dir import METRICS, check_same_options, claimed, output_folder
from minift.training.schedules import cosine
from minift.training.signals import Stop, Stopped, stopped_at
from minift.training.step import autocast

TOKENS = "tokens.bin"
OBJECTIVES: dict[str, type[Objective]] = {"t5": Gaps, "bert": Masks}


@dataclass(frozen=True)
class PretrainOptions:
    """What it learns from, and for how long."""

    text: tuple[Path, ...] = option((), "Plain text, blank lines between documents; .gz or .xz.")
    model: str | None = option(
        None, "Folder, name or hub id of a model to go on from, instead of a new one."
    )
    freeze_encoder: bool = option(
        False, "BERT: the head for masked words learns alone, a probe of what its encoder knows."
    )
    output_dir: Path | None = option(None, "Where the run goes; runs/pretrain-N if not given.")
    resume: bool = option(False, "Go on with the run in --output-dir from its last saved state.")
    overwrite: bool = option(False, "Replace the run that --output-dir holds.")
    steps: int = option(10_000, "Steps of the optimiser.")
    batch_size: int = option(32, "Chunks in a step.")
    chunk: int = option(256, "Tokens of text in a chunk.")
    held_out: int = option(200, "Chunks at the end of the text that the loss is measured on.")
    learning_rate: float | None = option(
        None, "Highest rate; if not given, 1e-2 for t5 (Adafactor) and 1e-3 for bert (AdamW)."
    )
    warmup: int = option(500, "Steps in which the rate rises from zero; then it falls to zero.")
    eval_every: int = option(1000, "Steps between two measurements of the held-out loss.")
    log_every: int = option(20, "Steps between two lines in log.jsonl.")
    save_every: int = option(500, "Steps between two saved states for --resume; 0: none.")
    workers: int = option(0, "Processes that make batches ahead; 0: each when it is needed.")
    seed: int = option(1, "Seed of everything random.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: str = option("fp32", "fp32, or bf16: mixed precision, weights in fp32.")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "held_out", "eval_every", "log_every"):
            check_range(self, name, 1)
        for name in ("warmup", "save_every", "workers"):
            check_range(self, name, 0)
        check_range(self, "chunk", 8)
        check_range(self, "learning_rate", 1e-12)
        check_device(self.device)
        check_precision(self.precision)
        if not self.text:
            raise ValueError("--text is missing; give one file of plain text or several")


def pretrain(model_options: ModelOptions, options: PretrainOptions) -> dict[str, Any]:
    """The whole job; returns what metrics.json holds.  The model is stored in half precision."""
    started = time.perf_counter()
    pick_device(options.device)  # refused, if it must be, before the folder is touched
    objective_class = objective_of(model_options, options)
    if options.freeze_encoder and objective_class is not Masks:
        raise InputError("--freeze-encoder leaves nothing of a T5 that could learn; leave it out")
    folder = output_folder(options, "pretrain")
    for path in options.text:
        if next(read_documents([path]), None) is None:
            raise InputError(f"{path}: holds no text; give files of plain text")
    if options.model is not None:  # refused likewise
        objective_class(Tokenizer.from_pretrained(options.model), model_options)
    if options.learning_rate is None:
        options = replace(options, learning_rate=objective_class.usual_rate)
    resolved = {**as_dict(model_options, options), "output_dir": str(folder)}
    if options.resume:
        check_same_options(folder, resolved, "resume it with the same options")
    with claimed(folder, options, resolved), Stop() as stop:
        metrics = work(objective_class, model_options, options, resolved, folder, stop)
        metrics["seconds"] = round(time.perf_counter() - started, 2)
        write_json(folder / METRICS, metrics)
        remove_state(folder)
    print(f"held-out loss {metrics['dev']['loss']:.4f}; the model is in {folder}")
    return metrics


def work(
    objective_class: type[Objective],
    model_options: ModelOptions,
    options: PretrainOptions,
    resolved: dict[str, Any],
    folder: Path,
    stop: Stop,
) -> dict[str, Any]:
    """Tokenizer, tokens, model, training; what metrics.json says of it."""
    device = pick_device(options.device)
    print("options   " + ", ".join(f"{k}={v}" for k, v in resolved.items()), flush=True)

    tokenizer = make_tokenizer(objective_class, folder, model_options, options)
    objective = objective_class(tokenizer, model_options)
    chunks = make_chunks(folder, tokenizer, objective.end, options)
    torch.manual_seed(options.seed)
    if options.model is not None:
        model = objective.load_model(hub.resolve(options.model), model_options.dropout)
    else:
        model = objective.new_model(tokenizer, model_options, longest=options.chunk + 2)
    model.to(device)
    if options.freeze_encoder:
        learn_head(model)
    print(f"tokens    {chunks.total} chunks of {options.chunk}")
    print(describe_model(model), flush=True)

    held_out = train_steps(model, chunks, objective, options, folder, stop)
    # Whoever fine-tunes it finds the usual dropout again, as with T5 v1.1.
    usual = type(model.config)()
    rates = {name: getattr(usual, name) for name in usual.dropouts.values()}
    model.config = replace(model.config, **rates)
    model.save_pretrained(folder, dtype=torch.float16)
    return {
        "task": "pretraining",
        "options": resolved,
        "parameters": sum(p.numel() for p in model.parameters()),
        "chunks": chunks.total,
        "dev": {"loss": held_out},
        "environment": environment(device),
    }


def objective_of(model_options: ModelOptions, options: PretrainOptions) -> type[Objective]:
    """What the family learns from text: that of the model to go on from, or the one asked for."""
    if options.model is None:
        return OBJECTIVES[model_options.family]
    path = hub.resolve(options.model) / CONFIG
    config = read_json(path)
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in OBJECTIVES:
        raise InputError(
            f"{path}: model_type is {found!r}; minift pre-trains {', '.join(sorted(OBJECTIVES))}"
        )
    limit = config.get("max_position_embeddings")
    if found == "bert" and isinstance(limit, int) and options.chunk + 2 > limit:
        raise InputError(
            f"--chunk is {options.chunk}, but {options.model} reads at most {limit} tokens, of "
            f"which 2 are special; give at most {limit - 2}"
        )
    return OBJECTIVES[found]


def make_tokenizer(
    objective: type[Objective], folder: Path, model_options: ModelOptions, options: PretrainOptions
) -> Tokenizer:
    """The tokenizer in the folder, first put there: that of the model to go on from, or a new one
    that learns from every so many documents of all shards."""
    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_pretrained(folder)
    if options.model is not None:
        Tokenizer.from_pretrained(options.model).save_pretrained(folder)
        return Tokenizer.from_pretrained(folder)
    count = sum(1 for _ in read_documents(options.text))
    every = max(1, count // model_options.tokenizer_documents)
    chosen = islice(read_documents(options.text), 0, None, every)
    print(f"documents {count}; the tokenizer learns from every {every}th", flush=True)
    shown = progress(chosen, "tokenizer", -(-count // every))
    objective.make_tokenizer(shown, model_options.vocab_size, folder)
    return Tokenizer.from_pretrained(folder)


def make_chunks(folder: Path, tokenizer: Tokenizer, end: int, options: PretrainOptions) -> Chunks:
    """The tokens of all shards as chunks, written first if they are not there."""
    path, vocabulary = folder / TOKENS, tokenizer.vocab_size
    if not path.exists():
        documents = progress(read_documents(options.text), "tokens")
        ids = (row for part in parts(documents, 1024) for row in tokenizer.ids(part))
        write_tokens(path, ids, end, vocabulary)
    return Chunks(path, vocabulary, options.chunk, options.held_out)


@dataclass(frozen=True)
class Steps(Dataset):
    """The batch of each step, a function of (seed, step) alone, whichever process makes it."""

    chunks: Chunks
    objective: Objective
    options: PretrainOptions

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        options = self.options
        numbers = self.chunks.batch(step, options.batch_size, options.seed)
        return self.objective.batch(
            self.chunks.read(numbers), np.random.default_rng((options.seed, step))
        )


def train_steps(
    model: PretrainedModel,
    chunks: Chunks,
    objective: Objective,
    options: PretrainOptions,
    folder: Path,
    stop: Stop,
) -> float:
    """Train in place; log.jsonl has the loss, and the held-out loss, as they fall.

    Returns the held-out loss at the end.
    """
    optimizer = new_optimizer(objective.optimizer, parameter_groups(model, weight_decay=0.0))
    at = (load_state(folder, model, optimizer) if options.resume else None) or Progress()
    if options.resume:
        print(f"resuming at step {at.step} of {options.steps}", flush=True)
    log = Log(folder, keep=at.log_lines)
    clock, since = time.perf_counter(), at.step
    held = None
    batches = iter(
        DataLoader(
            Steps(chunks, objective, options),
            batch_size=None,
            sampler=range(at.step, options.steps),
            num_workers=options.workers,
            # Not copies of this process, which would hold the folder's lock after its death.
            multiprocessing_context="spawn" if options.workers else None,
            generator=torch.Generator(),  # of its own: the model's dropout draws from the other
        )
    )
    for step in progress(range(at.step, options.steps), "pretrain", options.steps, at.step):
        model.train()
        rate = options.learning_rate * cosine(step, options.steps, options.warmup)
        set_rate(optimizer, rate)
        batch = [x.to(model.device) for x in next(batches)]

        def forward(batch: Sequence[Tensor] = batch) -> tuple[Tensor, Tensor]:
            with autocast(model.device, options.precision):
                return objective.loss(model, *batch)

        loss, count = forward()
        loss.backward()
        norm = normalise_gradients(model, count, max_norm=1.0)
        stop_if_not_finite(
            norm + loss.detach(), model, [lambda: forward()[0]], step + 1, options.learning_rate
        )
        optimizer.step()
        optimizer.zero_grad()
        at.step = step + 1
        at.loss_sum += loss.item()
        at.loss_count += count.item()
        last = at.step == options.steps
        if at.step % options.log_every == 0 or last:
            mean = at.loss_sum / at.loss_count
            tokens = (at.step - since) * options.batch_size * options.chunk
            speed = tokens / (time.perf_counter() - clock)
            row = {"step": at.step, "loss": mean, "learning_rate": rate, "grad_norm": norm.item()}
            log.write({**row, "text_tokens_per_second": round(speed)})
            clock, since, at.loss_sum, at.loss_count = time.perf_counter(), at.step, 0.0, 0.0
        if at.step % options.eval_every == 0 or last:
            held = held_out_loss(model, chunks, objective, options)
            log.write({"step": at.step, "dev": {"loss": held}})
            print(f"step {at.step}  held-out loss {held:.4f}", flush=True)
        asked = None if last else stop.asked
        if asked or (options.save_every and at.step % options.save_every == 0):
            at.log_lines = log.lines
            save_state(folder, model, optimizer, at)
        if asked:
            raise Stopped(asked, stopped_at(at.step, options.steps, folder))
    # A run that was killed behind its last step has none left that would have measured it.
    return held_out_loss(model, chunks, objective, options) if held is None else held


@torch.no_grad()
def held_out_loss(
    model: PretrainedModel,
    chunks: Chunks,
    objective: Objective,
    options: PretrainOptions,
) -> float:
    """Mean loss of a hidden token over the held-out chunks, always with the same ones hidden."""
    model.eval()
    total, count = 0.0, 0.0
    held = list(chunks.held)
    for start in range(0, len(held), options.batch_size):
        random = np.random.default_rng((0, start))
        batch = objective.batch(chunks.read(held[start : start + options.batch_size]), random)
        with autocast(model.device, options.precision):
            loss, tokens = objective.loss(model, *(x.to(model.device) for x in batch))
        total, count = total + loss.item(), count + tokens.item()
    return total / count
