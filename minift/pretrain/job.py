"""Pre-training from nothing: shards of plain text in, a T5 with a tokenizer of its own out.

    shards -> tokenizer (from a part of them) -> tokens.bin -> chunks -> gaps -> steps -> model

All of it is in `--output-dir`; with `--resume` a run that was killed goes on from its last saved
state to the same bits.  The optimiser is Adafactor (Shazeer and Stern 2018), which T5 was made
with: its steps are in proportion to the size of what they change, which suits embeddings of size 1
beside matrices of size 1 / sqrt(H).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minift.data.batch import parts, progress
from minift.errors import InputError
from minift.files import write_json
from minift.models.t5 import T5Config, T5ForConditionalGeneration
from minift.pretrain.corpus import Chunks, read_documents, write_tokens
from minift.pretrain.gaps import gap_loss
from minift.pretrain.unigram import SENTINELS, save_unigram, sentinel, train_unigram
from minift.tasks.base import check_range, option
from minift.text.tokenizer import Tokenizer
from minift.train.checkpoint import Progress, load_state, remove_state, save_state
from minift.train.loop import (
    METRICS,
    autocast,
    check_same_options,
    claim,
    output_folder,
    pick_device,
)
from minift.train.optim import normalise_gradients, set_rate
from minift.train.options import as_dict, check_device
from minift.train.report import Log, environment

TOKENS = "tokens.bin"


@dataclass(frozen=True)
class ModelOptions:
    """The model that is made; the defaults give 9 million parameters."""

    vocab_size: int = option(8000, "Tokens, 100 sentinels among them.")
    d_model: int = option(256, "Width of the model.")
    d_ff: int = option(1024, "Width of the feed-forward layers.")
    num_layers: int = option(4, "Layers of the encoder, and of the decoder.")
    num_heads: int = option(4, "Heads of attention, each 64 wide.")
    tokenizer_documents: int = option(20_000, "Documents that the tokenizer learns from.")

    def __post_init__(self) -> None:
        check_range(self, "vocab_size", SENTINELS + 10, 2**31)
        for name in ("d_model", "d_ff", "num_layers", "num_heads", "tokenizer_documents"):
            check_range(self, name, 1)


@dataclass(frozen=True)
class PretrainOptions:
    """What it learns from, and for how long."""

    text: tuple[Path, ...] = option((), "Plain text, blank lines between documents; .gz or .xz.")
    output_dir: Path | None = option(None, "Where the run goes; runs/pretrain-N if not given.")
    resume: bool = option(False, "Go on with the run in --output-dir from its last saved state.")
    overwrite: bool = option(False, "Replace the run that --output-dir holds.")
    steps: int = option(10_000, "Steps of the optimiser.")
    batch_size: int = option(32, "Chunks in a step.")
    chunk: int = option(256, "Tokens of text in a chunk.")
    held_out: int = option(200, "Chunks at the end of the text that the loss is measured on.")
    learning_rate: float = option(1e-2, "Highest rate, in proportion to what it changes.")
    warmup: int = option(500, "Steps in which the rate rises from zero; then it falls to zero.")
    dropout: float = option(0.0, "Of the whole model; text that is seen once needs none.")
    eval_every: int = option(1000, "Steps between two measurements of the held-out loss.")
    log_every: int = option(20, "Steps between two lines in log.jsonl.")
    save_every: int = option(500, "Steps between two saved states for --resume; 0: none.")
    seed: int = option(1, "Seed of everything random.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: str = option("fp32", "fp32, or bf16: mixed precision, weights in fp32.")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "held_out", "eval_every", "log_every"):
            check_range(self, name, 1)
        for name in ("warmup", "save_every"):
            check_range(self, name, 0)
        check_range(self, "chunk", 8)
        check_range(self, "learning_rate", 1e-12)
        check_range(self, "dropout", 0, 0.99)
        check_device(self.device)
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(
                f"--precision is {self.precision}; T5's feed-forward layers overflow in fp16 "
                "(they reach beyond 65,504), so it must be fp32 or bf16"
            )
        if not self.text:
            raise ValueError("--text is missing; give one file of plain text or several")


def cosine_schedule(step: int, total: int, warmup: int) -> float:
    """Factor of the rate: up to 1 during warm-up, then down to 0 along half a cosine.

    >>> [round(cosine_schedule(step, total=6, warmup=2), 2) for step in range(6)]
    [0.0, 0.5, 1.0, 0.85, 0.5, 0.15]
    """
    if step < warmup:
        return step / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def pretrain(model_options: ModelOptions, options: PretrainOptions) -> dict[str, Any]:
    """The whole job; returns what metrics.json holds.  The model is stored in half precision."""
    started = time.perf_counter()
    device = pick_device(options.device)
    folder = output_folder(options, "pretrain")
    for path in options.text:
        if next(read_documents([path]), None) is None:
            raise InputError(f"{path}: holds no text; give files of plain text")
    resolved = {**as_dict(model_options, options), "output_dir": str(folder)}
    if options.resume:
        check_same_options(folder, resolved)
    claim(folder, options, resolved)
    print("options   " + ", ".join(f"{k}={v}" for k, v in resolved.items()), flush=True)

    tokenizer = make_tokenizer(folder, model_options, options)
    chunks = make_chunks(folder, tokenizer, options)
    torch.manual_seed(options.seed)
    model = new_model(tokenizer, model_options, options).to(device)
    size = sum(p.numel() for p in model.parameters())
    print(f"tokens    {chunks.total} chunks of {options.chunk}", flush=True)
    print(f"model     {type(model).__name__}, {size:,} parameters", flush=True)

    held_out = train_gaps(model, chunks, sentinel_ids(tokenizer), options, folder)
    model.save_pretrained(folder, dtype=torch.float16)
    metrics = {
        "task": "pretraining",
        "options": resolved,
        "parameters": size,
        "chunks": chunks.total,
        "dev": {"loss": held_out},
        "seconds": round(time.perf_counter() - started, 2),
        "environment": environment(device),
    }
    write_json(folder / METRICS, metrics)
    remove_state(folder)
    print(f"held-out loss {held_out:.4f}; the model is in {folder}")
    return metrics


def make_tokenizer(
    folder: Path, model_options: ModelOptions, options: PretrainOptions
) -> Tokenizer:
    """The tokenizer in the folder, learned first from every so many documents of all shards."""
    if not (folder / "tokenizer.json").exists():
        count = sum(1 for _ in read_documents(options.text))
        every = max(1, count // model_options.tokenizer_documents)
        chosen = islice(read_documents(options.text), 0, None, every)
        print(f"documents {count}; the tokenizer learns from every {every}th", flush=True)
        shown = progress(chosen, "tokenizer", -(-count // every))
        save_unigram(train_unigram(shown, model_options.vocab_size), folder)
    return Tokenizer.from_pretrained(folder)


def make_chunks(folder: Path, tokenizer: Tokenizer, options: PretrainOptions) -> Chunks:
    """The tokens of all shards as chunks, written first if they are not there."""
    path, vocabulary = folder / TOKENS, tokenizer.vocab_size
    if not path.exists():
        documents = progress(read_documents(options.text), "tokens")
        ids = (row for part in parts(documents, 1024) for row in tokenizer.ids(part))
        write_tokens(path, ids, tokenizer.eos_token_id, vocabulary)
    return Chunks(path, vocabulary, options.chunk, options.held_out)


def sentinel_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids of <extra_id_0>, <extra_id_1>, ..."""
    return [tokenizer.id_of(sentinel(i)) for i in range(SENTINELS)]


def new_model(
    tokenizer: Tokenizer, model_options: ModelOptions, options: PretrainOptions
) -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=tokenizer.vocab_size,
            d_model=model_options.d_model,
            d_ff=model_options.d_ff,
            num_layers=model_options.num_layers,
            num_heads=model_options.num_heads,
            dropout_rate=options.dropout,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )


def train_gaps(
    model: T5ForConditionalGeneration,
    chunks: Chunks,
    sentinels: list[int],
    options: PretrainOptions,
    folder: Path,
) -> float:
    """Train in place; log.jsonl has the loss, and the held-out loss, as they fall.

    Returns the held-out loss at the end.
    """
    optimizer = torch.optim.Adafactor(model.parameters(), lr=options.learning_rate)
    at = (load_state(folder, model, optimizer) if options.resume else None) or Progress()
    if options.resume:
        print(f"resuming at step {at.step} of {options.steps}", flush=True)
    log = Log(folder, keep=at.log_lines)
    clock, since = time.perf_counter(), at.step
    held = None
    for step in progress(range(at.step, options.steps), "pretrain", options.steps, at.step):
        model.train()
        rate = options.learning_rate * cosine_schedule(step, options.steps, options.warmup)
        set_rate(optimizer, rate)
        batch = chunks.read(chunks.batch(step, options.batch_size, options.seed))
        with autocast(model.device, options.precision):
            loss, count = gap_loss(
                model, batch, np.random.default_rng((options.seed, step)), sentinels
            )
        loss.backward()
        norm = normalise_gradients(model, count, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        at.step = step + 1
        at.loss_sum += loss.item()
        at.loss_count += count.item()
        last = at.step == options.steps
        if at.step % options.log_every == 0 or last:
            mean = at.loss_sum / at.loss_count
            if not math.isfinite(mean):
                raise InputError(
                    f"step {at.step}: the loss is {mean}; lower --learning-rate "
                    f"(it was {options.learning_rate:g})"
                )
            tokens = (at.step - since) * options.batch_size * options.chunk
            speed = tokens / (time.perf_counter() - clock)
            row = {"step": at.step, "loss": mean, "learning_rate": rate, "grad_norm": norm.item()}
            log.write({**row, "text_tokens_per_second": round(speed)})
            clock, since, at.loss_sum, at.loss_count = time.perf_counter(), at.step, 0.0, 0.0
        if at.step % options.eval_every == 0 or last:
            held = held_out_loss(model, chunks, sentinels, options)
            log.write({"step": at.step, "dev": {"loss": held}})
            print(f"step {at.step}  held-out loss {held:.4f}", flush=True)
        if options.save_every and at.step % options.save_every == 0:
            at.log_lines = log.lines
            save_state(folder, model, optimizer, at)
    # A run that was killed behind its last step has none left that would have measured it.
    return held_out_loss(model, chunks, sentinels, options) if held is None else held


@torch.no_grad()
def held_out_loss(
    model: T5ForConditionalGeneration,
    chunks: Chunks,
    sentinels: list[int],
    options: PretrainOptions,
) -> float:
    """Mean loss of a target's token over the held-out chunks, always with the same gaps."""
    model.eval()
    total, count = 0.0, 0.0
    held = list(chunks.held)
    for start in range(0, len(held), options.batch_size):
        random = np.random.default_rng((0, start))
        batch = chunks.read(held[start : start + options.batch_size])
        with autocast(model.device, options.precision):
            loss, tokens = gap_loss(model, batch, random, sentinels)
        total, count = total + loss.item(), count + tokens.item()
    return total / count
