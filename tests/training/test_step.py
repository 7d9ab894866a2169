"""A step when memory runs out, and when its loss is not finite."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.running import read_lines

from minift.errors import NonFiniteError, UserError
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.training.options import TrainOptions
from minift.training.run import run
from minift.training.step import is_out_of_memory

HONEST = ClassificationTask.loss


@pytest.fixture
def start(tiny_bert, reviews, tmp_path):
    task = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"], dropout=0.0)
    options = TrainOptions(
        output_dir=tmp_path / "out", epochs=2, batch_size=8, device="cpu", logging_steps=1
    )
    return task, options


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_the_step_is_the_same(
    start, tmp_path, monkeypatch, capsys, error
):
    task, options = start
    run(ClassificationTask, task, options)
    shapes = []

    def small_memory(self, model, batch):
        total, count = HONEST(self, model, batch)
        shapes.append(len(batch.input_ids))
        if len(batch.input_ids) > 2:
            # Behind a part of the work, as memory does: some gradients are there already.
            model.head.bias.grad = torch.full((2,), 1e3)
            raise error
        return total, count

    monkeypatch.setattr(ClassificationTask, "loss", small_memory)
    with pytest.raises(
        UserError, match=r"out of memory for a batch of 8 records of up to \d+ tokens"
    ):
        run(ClassificationTask, task, replace(options, output_dir=tmp_path / "refused"))
    shapes.clear()
    halved = replace(options, output_dir=tmp_path / "halved", auto_micro_batch=True)
    run(ClassificationTask, task, halved)
    assert shapes[:3] == [8, 4, 2]
    assert max(shapes[3:]) == 2
    assert (
        "from now on at most 2 records in a forward pass; the optimiser step stays the same"
        in capsys.readouterr().out
    )
    whole, parts = weights(options.output_dir), weights(halved.output_dir)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=2e-6, rtol=1e-4)


def test_a_record_that_does_not_fit_alone_is_too_long(start, monkeypatch):
    task, options = start

    def no_memory(self, model, batch):
        raise MemoryError

    monkeypatch.setattr(ClassificationTask, "loss", no_memory)
    with pytest.raises(UserError, match=r"a batch of 1 records .*; lower --max-length"):
        run(ClassificationTask, task, replace(options, auto_micro_batch=True))


def test_other_errors_are_no_lack_of_memory(start, monkeypatch):
    task, options = start

    def wrong(self, model, batch):
        raise RuntimeError("shapes do not fit")

    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    monkeypatch.setattr(ClassificationTask, "loss", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(ClassificationTask, task, replace(options, auto_micro_batch=True))


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_steps_that_are_not_finite_are_skipped_as_often_as_allowed(
    start, monkeypatch, capsys, allowed
):
    task, options = start

    def poisoned(self, model, batch):
        total, count = HONEST(self, model, batch)
        if 7 in batch.labels_of_poison:
            total = total * float("nan")
        return total, count

    collate = ClassificationTask.collate

    def watched(self, features):
        batch = collate(self, features)
        object.__setattr__(batch, "labels_of_poison", [feature.record for feature in features])
        return batch

    monkeypatch.setattr(ClassificationTask, "loss", poisoned)
    monkeypatch.setattr(ClassificationTask, "collate", watched)
    monkeypatch.setattr("minift.tasks.batches.TokenBatch.to", lambda self, device: self)
    changed = replace(options, max_skipped_steps=allowed)
    if allowed < 2:  # record 8 comes once in each of two epochs
        words = r"the loss; the step was not taken; its training records were .*\b8\b.*; lower"
        with pytest.raises(NonFiniteError, match=words):
            run(ClassificationTask, task, changed)
        assert not (options.output_dir / "model.safetensors").exists()
        return
    run(ClassificationTask, task, changed)
    assert "(skipped steps so far: 2)" in capsys.readouterr().out
    log = [line for line in read_lines(options.output_dir / "log.jsonl") if "loss" in line]
    assert len(log) == 12  # of 14 steps
    assert all(torch.isfinite(t).all() for t in weights(options.output_dir).values())
