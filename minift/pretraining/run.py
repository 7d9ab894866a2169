"""Pre-training: plain text in, a model with its own tokenizer out.

    text files -> tokenizer (trained on part of them) -> tokens.bin -> blocks -> steps -> model

The objective is span corruption for an encoder-decoder (span_corruption.py) and masked language
modelling for an encoder (masked_lm.py).  `--model` continues the pre-training of a checkpoint, with
its tokenizer (Gururangan et al. 2020, "Don't stop pretraining").

Everything is written into `--output-dir`; `--resume` continues an interrupted run from its last
saved state to the same bits.
"""

from __future__ import annotations

import math
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
from minift.data.batching import batched
from minift.device import autocast, check_device, check_precision, pick_device
from minift.errors import UserError
from minift.files import write_json
from minift.models.base import PretrainedModel
from minift.models.config import CONFIG
from minift.models.registry import families_with, family_model, read_model_type
from minift.options import check_range, convert_paths, flag_of, option
from minift.pretraining.base import ModelOptions, Objective, new_model
from minift.pretraining.corpus import TokenBlocks, read_documents, write_tokens
from minift.pretraining.masked_lm import MaskedLM
from minift.pretraining.span_corruption import SpanCorruption
from minift.terminal import ProgressBar, print_line, progress_bar
from minift.text.tokenizer import Tokenizer
from minift.training.checkpoint import load_state, remove_state, save_state
from minift.training.cli import as_dict
from minift.training.freezing import freeze_all_but_head
from minift.training.log import Log, environment
from minift.training.nonfinite import stop_if_not_finite
from minift.training.optim import (
    average_and_clip_gradients,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)
from minift.training.options import MAX_BATCH_SIZE, MAX_SEED, check_resume
from minift.training.progress import describe_model, describe_options
from minift.training.resume import check_same_options
from minift.training.run_dir import METRICS, run_lock, started
from minift.training.schedules import cosine
from minift.training.signals import Stopped, StopRequest, interrupts_blocked, stopped_at
from minift.training.state import TrainerState

TOKENS = "tokens.bin"
OBJECTIVES: tuple[type[Objective], ...] = (SpanCorruption, MaskedLM)


@dataclass(frozen=True)
class PretrainOptions:
    """Text, length and speed of pre-training."""

    train_file: tuple[Path, ...] = option(
        (), "Plain text files, a blank line between documents; also .gz or .xz.", common=True
    )
    model: str | None = option(
        None,
        "Folder, name or hub id of a checkpoint to continue; default: a new model.",
        common=True,
    )
    freeze_encoder: bool = option(
        False,
        "Masked language modelling: train only the head, which measures what the frozen encoder "
        "knows.",
    )
    output_dir: Path | None = option(
        None, "Folder for the model and its results; default: a folder under runs/.", common=True
    )
    resume: bool = option(
        False, "Continue the run in --output-dir from its last saved state.", common=True
    )
    overwrite: bool = option(False, "Replace the run in --output-dir.", common=True)
    max_steps: int = option(10_000, "Optimiser steps.", common=True)
    batch_size: int = option(32, "Blocks in a step.", common=True)
    block_size: int = option(256, "Tokens of text in a block.", common=True)
    eval_blocks: int = option(
        200, "Blocks at the end of the text that are held out for evaluation."
    )
    learning_rate: float | None = option(
        None,
        "Highest learning rate. Default: 1e-2 for span corruption (Adafactor), 1e-3 for masked "
        "language modelling (AdamW).",
        common=True,
    )
    warmup_ratio: float = option(
        0.05, "Share of the steps in which the learning rate rises from 0; then a cosine to 0."
    )
    eval_steps: int = option(1000, "Steps between two measurements of the held-out loss.")
    logging_steps: int = option(20, "Steps between two lines of log.jsonl.")
    save_steps: int = option(500, "Steps between two saved states for --resume; 0: none.")
    workers: int = option(0, "Processes that prepare batches in advance; 0: none.")
    seed: int = option(1, "Seed of every random number.", common=True)
    device: str = option("auto", "auto (a GPU if there is one), cpu, cuda or cuda:N.", common=True)
    precision: str = option("fp32", "fp32, or bf16: mixed precision with float32 weights.")

    def __post_init__(self) -> None:
        convert_paths(self)
        check_range(self, "batch_size", 1, MAX_BATCH_SIZE)
        for name in ("max_steps", "eval_blocks", "eval_steps", "logging_steps"):
            check_range(self, name, 1)
        for name in ("save_steps", "workers"):
            check_range(self, name, 0)
        check_range(self, "warmup_ratio", 0, 1)
        check_range(self, "seed", 0, MAX_SEED)
        check_range(self, "block_size", 8)
        check_range(self, "learning_rate", 1e-12)
        check_resume(self)
        check_device(self.device)
        check_precision(self.precision)
        if not self.train_file:
            raise ValueError("--train-file is missing; give one file of plain text or several")


def pretrain(model_options: ModelOptions, options: PretrainOptions) -> dict[str, Any]:
    """Pre-train a model and save it, with weights in float16; returns the contents of metrics.json.

    `UserError` for bad input, before a file is changed in the output directory.
    """
    began = time.perf_counter()
    pick_device(options.device)  # refuses a missing device before the folder is touched
    objective_class, model_class = objective_of(model_options, options)
    if options.freeze_encoder and not objective_class.has_head:
        raise UserError(
            "--freeze-encoder leaves an encoder-decoder no parameter to train; leave it out"
        )
    check_used(model_options, options, objective_class)
    if options.learning_rate is None:
        options = replace(options, learning_rate=objective_class.default_learning_rate)
    with run_lock("pretrain", options) as folder:
        for path in options.train_file:
            if next(read_documents([path]), None) is None:
                raise UserError(f"{path}: holds no text; give files of plain text")
        if options.model is not None:  # refuses a tokenizer without the special tokens, likewise
            tokenizer = Tokenizer.from_pretrained(options.model)
            objective_class(tokenizer, model_options)
            start = hub.find_checkpoint(options.model)
            tokenizer.check_fits(model_class.config_class.from_pretrained(start).vocab_size)
        resolved = {**as_dict(model_options, options), "output_dir": str(folder)}
        if options.resume:
            check_same_options(folder, resolved, "resume it with the same options")
        with started(folder, options, resolved):
            objective = (objective_class, model_class)
            metrics = pretrain_in(*objective, model_options, options, resolved, folder)
            metrics["seconds"] = round(time.perf_counter() - began, 2)
            write_json(folder / METRICS, metrics)
            remove_state(folder)
    print_line(f"held-out loss {metrics['dev']['loss']:.4f}; the model is in {folder}")
    return metrics


def pretrain_in(
    objective_class: type[Objective],
    model_class: type[PretrainedModel],
    model_options: ModelOptions,
    options: PretrainOptions,
    resolved: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Tokenizer, token file, model, training; returns the contents of metrics.json."""
    device = pick_device(options.device)
    print_line(describe_options(resolved, type(model_options), PretrainOptions))

    tokenizer = make_tokenizer(objective_class, folder, model_options, options)
    objective = objective_class(tokenizer, model_options)
    blocks = make_blocks(folder, tokenizer, objective.end_token_id, options)
    torch.manual_seed(options.seed)
    if options.model is not None:
        source = hub.find_checkpoint(options.model)
        model = objective.load_model(model_class, source, model_options.dropout)
    else:
        max_tokens = options.block_size + objective.num_special
        model = new_model(model_class, tokenizer, model_options, max_tokens)
    model.to(device)
    if options.freeze_encoder:
        freeze_all_but_head(model)
    print_line(f"tokens    {blocks.total} blocks of {options.block_size}")
    print_line(describe_model(model))

    with StopRequest() as stop:
        loss = train_steps(model, blocks, objective, options, folder, stop)
    if not math.isfinite(loss):
        raise UserError(
            f"the held-out loss is {loss} after the last step; lower --learning-rate (it was "
            f"{options.learning_rate:g})"
        )
    # The saved config has the family's default dropout, for fine-tuning, as that of T5 v1.1 has.
    default = type(model.config)()
    dropouts = {name: getattr(default, name) for name in default.dropouts}
    model.config = replace(model.config, **dropouts)
    model.save_pretrained(folder, dtype=torch.float16)
    config = model.config
    tokenizer.for_model(config.input_names, config.max_tokens).save_pretrained(folder)
    return {
        "task": "pretraining",
        "options": resolved,
        "parameters": sum(p.numel() for p in model.parameters()),
        "blocks": blocks.total,
        "dev": {"loss": loss},
        "environment": environment(device),
    }


def objective_of(
    model_options: ModelOptions, options: PretrainOptions
) -> tuple[type[Objective], type[PretrainedModel]]:
    """The objective and the model class of the family: the checkpoint's, or that of --family."""
    folder = None if options.model is None else hub.find_checkpoint(options.model)
    family = model_options.family if folder is None else read_model_type(folder)
    pairs = ((objective, family_model(family, objective.model_kind)) for objective in OBJECTIVES)
    found = next(((objective, model) for objective, model in pairs if model is not None), None)
    if found is None:
        known = {name for objective in OBJECTIVES for name in families_with(objective.model_kind)}
        raise UserError(
            f"{folder / CONFIG}: model_type is {family!r}; minift pre-trains "
            f"{', '.join(sorted(known))}"
        )
    objective, model_class = found
    if folder is not None:
        config = model_class.config_class.from_pretrained(folder)
        limit, special = config.max_tokens, objective.num_special
        if config.has_max_tokens and options.block_size + special > limit:
            raise UserError(
                f"{options.model}: reads at most {limit} tokens, of which {special} are special; "
                f"pretrain.py --block-size is {options.block_size}, give at most {limit - special}"
            )
    return found


def check_used(
    model_options: ModelOptions, options: PretrainOptions, objective: type[Objective]
) -> None:
    """`UserError` for an option that was given and has no effect on this model or objective."""
    unused = dict.fromkeys(objective.ignored_options, "is of span corruption")
    if options.model is not None:
        has = f"is decided by the checkpoint {options.model}"
        names = ("vocab_size", "d_model", "d_ff", "num_layers", "num_heads", "tokenizer_documents")
        unused |= dict.fromkeys(names, has)
        if model_options.family != read_model_type(hub.find_checkpoint(options.model)):
            unused["family"] = has
    for name, reason in unused.items():
        value = getattr(model_options, name)
        if value != getattr(ModelOptions, name):
            raise UserError(f"{flag_of(name)} is {value}, but it {reason}; leave it out")


def make_tokenizer(
    objective: type[Objective], folder: Path, model_options: ModelOptions, options: PretrainOptions
) -> Tokenizer:
    """The tokenizer in the folder, created if it is missing.

    It is copied from the checkpoint to continue, or trained on every n-th document, with the
    largest n that leaves `tokenizer_documents` of them.
    """
    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_pretrained(folder)
    if options.model is not None:
        # Saved for people too, who write [MASK] where a word is asked for.
        start = Tokenizer.from_pretrained(options.model, split_special_tokens=False)
        start.save_pretrained(folder)
        return Tokenizer.from_pretrained(folder)
    count = sum(1 for _ in read_documents(options.train_file))
    every = max(1, count // model_options.tokenizer_documents)
    chosen = islice(read_documents(options.train_file), 0, None, every)
    share = "all of them" if every == 1 else f"one in {every}"
    print_line(f"documents {count}; the tokenizer is trained on {share}")
    shown = progress_bar(chosen, "tokenizer", -(-count // every))
    objective.make_tokenizer(shown, model_options.vocab_size, folder)
    return Tokenizer.from_pretrained(folder)


def make_blocks(
    folder: Path, tokenizer: Tokenizer, end_token_id: int, options: PretrainOptions
) -> TokenBlocks:
    """The token blocks of all files; tokens.bin is written if it is missing."""
    path, vocab_size = folder / TOKENS, tokenizer.vocab_size
    if not path.exists():
        documents = progress_bar(read_documents(options.train_file), "tokens")
        ids = (row for part in batched(documents, 1024) for row in tokenizer.ids(part))
        write_tokens(path, ids, end_token_id, vocab_size)
    return TokenBlocks(path, vocab_size, options.block_size, options.eval_blocks)


@dataclass(frozen=True)
class StepBatches(Dataset):
    """Step number -> its batch, a function of (seed, step), so any process may prepare it."""

    blocks: TokenBlocks
    objective: Objective
    options: PretrainOptions

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        options = self.options
        numbers = self.blocks.batch(step, options.batch_size, options.seed)
        return self.objective.batch(
            self.blocks.read(numbers), np.random.default_rng((options.seed, step))
        )


def train_steps(
    model: PretrainedModel,
    blocks: TokenBlocks,
    objective: Objective,
    options: PretrainOptions,
    folder: Path,
    stop: StopRequest,
) -> float:
    """Train `model` in place, log to log.jsonl; returns the held-out loss after the last step."""
    optimizer = make_optimizer(objective.optimizer, parameter_groups(model, weight_decay=0.0))
    warmup_steps = round(options.max_steps * options.warmup_ratio)
    state = (load_state(folder, model, optimizer) if options.resume else None) or TrainerState()
    if options.resume:
        print_line(f"resuming at step {state.step} of {options.max_steps}")
    log = Log(folder, keep_lines=state.log_lines)
    clock, since = time.perf_counter(), state.step
    held_out_loss = None
    loader = DataLoader(
        StepBatches(blocks, objective, options),
        batch_size=None,
        sampler=range(state.step, options.max_steps),
        num_workers=options.workers,
        # A fork of this process would hold the folder's lock after its death.
        multiprocessing_context="spawn" if options.workers else None,
        generator=torch.Generator(),  # its own, because the model's dropout uses the global one
    )
    with interrupts_blocked():
        batches = iter(loader)
    bar = ProgressBar("pretrain", options.max_steps, state.step)
    for step in bar.over(range(state.step, options.max_steps)):
        model.train()
        learning_rate = options.learning_rate * cosine(step, options.max_steps, warmup_steps)
        set_learning_rate(optimizer, learning_rate)
        batch = [x.to(model.device) for x in next(batches)]

        def forward(batch: Sequence[Tensor] = batch) -> tuple[Tensor, Tensor]:
            with autocast(model.device, options.precision):
                return objective.loss(model, *batch)

        loss, count = forward()
        loss.backward()
        norm = average_and_clip_gradients(model, count, max_norm=1.0)
        stop_if_not_finite(
            norm + loss.detach(), model, [lambda: forward()[0]], step + 1, options.learning_rate
        )
        optimizer.step()
        optimizer.zero_grad()
        state.step = step + 1
        state.loss_sum += loss.item()
        state.loss_count += count.item()
        is_last = state.step == options.max_steps
        if state.step % options.logging_steps == 0 or is_last:
            mean = state.loss_sum / state.loss_count
            tokens = (state.step - since) * options.batch_size * options.block_size
            speed = tokens / (time.perf_counter() - clock)
            row = {
                "step": state.step,
                "loss": mean,
                "learning_rate": learning_rate,
                "grad_norm": norm.item(),
            }
            log.write({**row, "text_tokens_per_second": round(speed)})
            bar.note(f"loss {mean:.4f}")
            clock, since = time.perf_counter(), state.step
            state.loss_sum, state.loss_count = 0.0, 0.0
        if state.step % options.eval_steps == 0 or is_last:
            held_out_loss = eval_loss(model, blocks, objective, options)
            log.write({"step": state.step, "dev": {"loss": held_out_loss}})
            print_line(f"step {state.step}  held-out loss {held_out_loss:.4f}")
        stop_now = stop.requested
        if stop_now or (options.save_steps and state.step % options.save_steps == 0):
            state.log_lines = log.num_lines
            save_state(folder, model, optimizer, state)
        if stop_now:
            raise Stopped(stop_now, stopped_at(state.step, options.max_steps, folder))
    # A run that was killed after its last step resumes with no step left to measure it.
    return eval_loss(model, blocks, objective, options) if held_out_loss is None else held_out_loss


@torch.no_grad()
def eval_loss(
    model: PretrainedModel,
    blocks: TokenBlocks,
    objective: Objective,
    options: PretrainOptions,
) -> float:
    """Held-out loss: the mean over the predicted tokens of the held-out blocks.

    The same tokens are hidden in every call.
    """
    model.eval()
    total, count = 0.0, 0.0
    numbers = list(blocks.eval_block_numbers)
    for start in range(0, len(numbers), options.batch_size):
        random = np.random.default_rng((0, start))
        batch = objective.batch(blocks.read(numbers[start : start + options.batch_size]), random)
        with autocast(model.device, options.precision):
            loss, tokens = objective.loss(model, *(x.to(model.device) for x in batch))
        total, count = total + loss.item(), count + tokens.item()
    return total / count
