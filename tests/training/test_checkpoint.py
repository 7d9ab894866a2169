"""A state is whole or it is not there, whatever moment a run dies at."""

from __future__ import annotations

import contextlib
import os

import pytest
import torch
from torch import nn

from minift.errors import UserError
from minift.training import checkpoint
from minift.training.checkpoint import load_state, remove_state, save_state
from minift.training.optim import make_optimizer
from minift.training.state import EpochOrder, Throughput, TrainerState


def one_group(model):
    return {"params": [*model.parameters()], "weight_decay": 0.01, "factor": 1.0}


def trained(seed: int):
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = make_optimizer("adamw", [one_group(model)])
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for _ in range(3):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def step(model, optimizer):
    """One more step, which depends on weights, moments and random numbers."""
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def test_going_on_gives_the_same_numbers(tmp_path):
    model, optimizer = trained(1)
    order = EpochOrder(seed=1, batch_size=4, by_length=True, used=8)
    throughput = Throughput(seconds=0.5, examples=20, real_tokens=90, all_tokens=100)
    at = TrainerState(
        epoch=1,
        orders=[order],
        step=3,
        best_score=0.5,
        max_micro_batch=2,
        loss_sum=0.1,
        loss_count=3,
        throughput=throughput,
    )
    save_state(tmp_path, model, optimizer, at)
    expected = step(model, optimizer)
    other, its_optimizer = trained(2)
    assert load_state(tmp_path, other, its_optimizer) == at
    found = step(other, its_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    remove_state(tmp_path)
    assert load_state(tmp_path, other, its_optimizer) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", range(12))
def test_killed_inside_a_save_the_old_or_the_new_state_is_whole(tmp_path, monkeypatch, moment):
    model, optimizer = trained(1)
    save_state(tmp_path, model, optimizer, TrainerState(step=1))

    class Killed(BaseException):
        pass

    left = [moment]

    def dying(real):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", dying(checkpoint.save_file))
        patch.setattr(checkpoint, "sync", dying(checkpoint.sync))
        patch.setattr(os, "rename", dying(os.rename))
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr(checkpoint, "write_json", dying(checkpoint.write_json))
        with contextlib.suppress(Killed):
            save_state(tmp_path, model, optimizer, TrainerState(step=2))
    found = load_state(tmp_path, *trained(2))
    assert found is not None
    assert found.step in (1, 2)
    # And the next save works from there.
    save_state(tmp_path, model, optimizer, TrainerState(step=3))
    assert load_state(tmp_path, *trained(2)).step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_state_of_another_run_is_refused(tmp_path):
    save_state(tmp_path, *trained(1), TrainerState())
    other = nn.Linear(5, 2)
    with pytest.raises(UserError, match="is not the state of this run"):
        load_state(tmp_path, other, make_optimizer("adamw", [one_group(other)]))
    path = tmp_path / "state" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    (path.parent / "manifest.json").unlink()
    with pytest.raises(UserError, match="is not the state of this run"):
        load_state(tmp_path, *trained(1))
