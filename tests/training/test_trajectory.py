"""Twenty steps of training with dropout 0 equal those of `transformers` with torch's AdamW.

minift trains as a script does: files, `run`, log.jsonl, the saved model.  The other side is an
ordinary loop that takes nothing but its batches from minift.  A family is one row of FAMILIES.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.parity import TOLERANCE, assert_close, tensors_on_disk
from support.running import read_lines

from minift.data.batching import training_batches
from minift.tasks.registry import TASKS
from minift.training.options import TrainOptions
from minift.training.run import run

transformers = pytest.importorskip("transformers", reason="compares with transformers, not here")

STEPS, EPOCHS = 20, 4
LEARNING_RATE, WARMUP_STEPS = 1e-3, 2  # a tenth of the steps
WEIGHT_DECAY = 0.2  # high enough that the decay of a bias would show
# Of the random part of all weights: biases and norms are then far from 0 and 1.  Larger weights
# make attention sharper, which amplifies rounding errors.
SCALE = 0.1
ROUNDING = 1e-6  # gradients that never exceed it are zero in theory


@dataclass(frozen=True)
class Family:
    """A model of `transformers`, and how it is trained.

    sizes: fields of its config; the size of the vocabulary is the tokenizer's.
    fixture, records: name the fixtures of a folder with a tokenizer, and of the training data.
    batch_size: makes five batches of the training records.
    max_grad_norm: some of the steps exceed it, some do not.
    zero_gradients: the ends of the names of parameters without influence.  A bias of the keys adds
        one number to all scores of a query, which softmax ignores.
    """

    model: str
    sizes: dict[str, Any]
    task: str
    fixture: str
    records: str
    batch_size: int
    max_grad_norm: float
    zero_gradients: tuple[str, ...] = ()


FAMILIES = {
    "bert": Family(
        "BertForSequenceClassification",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "id2label": {0: "neg", 1: "pos"},
        },
        task="classification",
        fixture="tiny_bert",
        records="reviews",
        batch_size=10,
        max_grad_norm=0.5,
        zero_gradients=("attention.self.key.bias",),
    ),
    "distilbert": Family(
        "DistilBertForSequenceClassification",
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "max_position_embeddings": 64,
            "id2label": {0: "neg", 1: "pos"},
        },
        task="classification",
        fixture="tiny_bert",
        records="reviews",
        batch_size=10,
        max_grad_norm=0.5,
        zero_gradients=("attention.k_lin.bias",),
    ),
    "t5": Family(
        "T5ForConditionalGeneration",
        {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
            # The gradient of ReLU jumps at 0, and of two million activations one or the other is as
            # near to 0 as a rounding error.  GELU is smooth.
            "feed_forward_proj": "gated-gelu",
        },
        task="summarization",
        fixture="tiny_t5",
        records="trees",
        batch_size=20,
        max_grad_norm=2.5,
    ),
}


def write_random_checkpoint(family: Family, folder: Path) -> None:
    """Replace the model beside a tokenizer by one of `transformers`, with random weights."""
    model_class = getattr(transformers, family.model)
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    model = model_class(model_class.config_class(vocab_size=vocab_size, **family.sizes))
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += SCALE * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)


def rate(step: int) -> float:
    """The learning rate of a step, counted from 0: up from 0 in the warmup, then down towards 0."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * step / WARMUP_STEPS
    return LEARNING_RATE * (STEPS - step) / (STEPS - WARMUP_STEPS)


def train_reference(family: Family, task_options: Any, options: TrainOptions):
    """An ordinary loop: (the trained model, rows of the log, name -> largest gradient)."""
    task, _, splits = TASKS[family.task].from_options(task_options)
    features = task.featurize(splits["train"], training=True)
    lengths = [feature.length for feature in features]
    model = getattr(transformers, family.model).from_pretrained(task_options.model)
    model.eval()  # dropout 0; nothing else depends on it
    decaying = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": decaying, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=False, foreach=False)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: rate(s) / LEARNING_RATE)
    rows, largest = [], dict.fromkeys((name for name, _ in model.named_parameters()), 0.0)
    for epoch in range(EPOCHS):
        for indices in training_batches(lengths, family.batch_size, options.seed, epoch):
            batch = task.collate([features[i] for i in indices])
            loss = model(batch.input_ids, batch.attention_mask, labels=batch.labels).loss
            loss.backward()
            for name, parameter in model.named_parameters():
                largest[name] = max(largest[name], parameter.grad.abs().max().item())
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), family.max_grad_norm)
            (learning_rate,) = {group["lr"] for group in optimizer.param_groups}
            row = {"loss": loss.item(), "grad_norm": norm.item(), "learning_rate": learning_rate}
            rows.append(row)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    return model, rows, largest


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_twenty_steps_equal_those_of_transformers(name, request, tmp_path):
    family = FAMILIES[name]
    folder = request.getfixturevalue(family.fixture)
    records = request.getfixturevalue(family.records)
    write_random_checkpoint(family, folder)
    task_class = TASKS[family.task]
    task_options = task_class.options_class(
        model=str(folder), train_file=records["train"], dropout=0.0
    )
    options = TrainOptions(
        output_dir=tmp_path / "out",
        epochs=EPOCHS,
        batch_size=family.batch_size,
        learning_rate=LEARNING_RATE,
        optimizer="adamw",
        weight_decay=WEIGHT_DECAY,
        warmup_ratio=WARMUP_STEPS / STEPS,
        max_grad_norm=family.max_grad_norm,
        logging_steps=1,
        device="cpu",
    )
    start = tensors_on_disk(folder)
    run(task_class, task_options, options)
    found = read_lines(options.output_dir / "log.jsonl")
    theirs, expected, largest = train_reference(family, task_options, options)

    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    norms = [row["grad_norm"] for row in expected]
    assert min(norms) < family.max_grad_norm < max(norms), norms
    for ours, peer in zip(found, expected, strict=True):
        assert ours["learning_rate"] == pytest.approx(peer["learning_rate"], rel=1e-9)
        for key in ("loss", "grad_norm"):
            assert abs(ours[key] - peer[key]) <= TOLERANCE, (key, ours, peer)

    trained = tensors_on_disk(options.output_dir)
    assert set(trained) == set(largest)
    without_influence = {n for n in largest if n.endswith(family.zero_gradients)}
    assert {n for n, gradient in largest.items() if gradient < ROUNDING} == without_influence
    for tensor, weight in theirs.named_parameters():
        ours, peer = trained[tensor], weight.detach()
        if tensor in without_influence:
            # AdamW divides a gradient by its own size, so rounding errors become steps of up to the
            # learning rate, whose direction is arbitrary.
            assert_close(tensor, ours, peer, tolerance=2 * sum(map(rate, range(STEPS))))
        else:
            assert_close(tensor, ours, peer)
            assert (ours - start[tensor]).abs().max() > 10 * TOLERANCE, f"{tensor} has not moved"
