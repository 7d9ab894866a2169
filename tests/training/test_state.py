"""Everything that changes in training is in the state, and a resumed run has it again.

`snapshot` looks at all that the loop can reach before a step: its local variables, their
attributes, and so on, and the random generators.  Something new that changes fails the first test
until it is listed here and in training/state.py; something that is listed but not restored fails
the second.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import sys
import types
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.running import read_lines
from torch import Tensor

from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.training import state
from minift.training.checkpoint import read_state
from minift.training.options import TrainOptions
from minift.training.run import run
from minift.training.signals import Stopped
from minift.training.state import TrainerState

# What the loop can reach and training changes -> where the state has it.
LISTED = {
    r"model\..*": "model.",
    r"optimizer\.state\..*": "optimizer.",
    r"averages\.mean\..*": "mean.",
    r"torch random": "random.cpu",
    r"totals": "loss_sum, loss_count",
    r"norm": "grad_norm",
    r"log\.num_lines": "log_lines",
    r"state\..*": "TrainerState",
}
# Changes that need no place there.
DERIVED = {
    r"optimizer\.param_groups\.\d+\.lr": "set before each step",
    r"model\.config\.other_keys\.minift.*": "set by each save of the model",
    r"bar\..*": "shown only",
}
# Local variables that an iteration sets before it uses them.
TEMPORARY = {
    *("step", "label", "started", "learning_rate", "result", "losses", "epochs_done", "row"),
    *("is_last", "mean", "values", "every", "is_due", "stop_now"),
}
# A resumed run is another process in another folder.
OTHERS_OWN = {
    r"options\.(output_dir|resume).*",
    r"(folder|log\.path|stop|plan\.options)\b.*",
    r"state\.throughput\.seconds",
    r"bar\..*",
    r"model\.config\b.*",  # immutable; saving a model replaces it by one with the task's settings
    r"state\.(loss_sum|loss_count|log_lines|grad_norm)",  # copied from totals, log, norm to save
}
ATOMS = (str, bytes, int, float, bool, type(None), torch.dtype, torch.device, os.PathLike)
PASSED_OVER = (types.FunctionType, types.MethodType, types.ModuleType, type, types.GeneratorType)


def digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    grad = "no gradient" if tensor.grad is None else digest(tensor.grad)
    return f"{hashlib.sha256(data).hexdigest()} {tensor.requires_grad} {grad}"


def reachable(roots: dict[str, object]) -> dict[str, str]:
    """Path -> value of everything in the roots; an object counts where it is found first."""
    found: dict[str, str] = {}
    seen: dict[int, str] = {}

    def visit(path: str, value: object) -> None:
        if isinstance(value, ATOMS):
            found[path] = repr(value)
        elif id(value) in seen or isinstance(value, PASSED_OVER):
            return
        elif isinstance(value, Tensor):
            seen[id(value)] = path
            found[path] = digest(value)
        else:
            seen[id(value)] = path
            found[path] = type(value).__name__
            if isinstance(value, dict):
                parts = {
                    seen.get(id(key), "a new tensor") if isinstance(key, Tensor) else key: part
                    for key, part in value.items()
                }
            elif isinstance(value, (list, tuple)):
                parts = dict(enumerate(value))
            elif isinstance(value, (set, frozenset)):
                parts = dict(enumerate(sorted(value, key=repr)))
            else:
                slots = [s for kind in type(value).__mro__ for s in getattr(kind, "__slots__", ())]
                parts = {name: getattr(value, name) for name in slots if hasattr(value, name)}
                parts |= getattr(value, "__dict__", {})
            for name, part in parts.items():
                visit(f"{path}.{name}", part)

    for name, value in roots.items():
        visit(name, value)
    return found


def snapshot(variables: dict[str, object]) -> dict[str, str]:
    first = {name: variables[name] for name in ("model", "optimizer", "averages", "state")}
    rest = {k: v for k, v in variables.items() if k not in TEMPORARY}
    generators = {
        "torch random": torch.get_rng_state(),
        "python random": random.getstate(),
        "numpy random": np.random.get_state(),
    }
    return reachable({**first, **rest, **generators})


def changes(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {path for path in {*before, *after} if before.get(path) != after.get(path)}


def matches(path: str, patterns) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)


@pytest.fixture
def watched(tiny_bert, reviews, tmp_path, monkeypatch):
    """A function: folder, options -> snapshots before each step of a run in which things happen.

    Memory runs out in step 3 and the loss of step 6 is NaN.  The learning rate is so low that no
    evaluation is better than the first.
    """
    honest = ClassificationTask.loss
    task = ClassificationOptions(
        model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"]
    )
    options = TrainOptions(
        epochs=2,
        batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-9,
        gradual_unfreezing=1,
        swa_fraction=0.8,
        eval_steps=2,
        logging_steps=3,
        early_stopping_patience=100,
        auto_micro_batch=True,
        max_skipped_steps=5,
        train_eval_samples=5,
        device="cpu",
    )

    def watch(folder, stop_in: int = 0, **changes):
        snapshots: dict[int, dict[str, str]] = {}
        at = [0]

        def look(optimizer, learning_rate):
            variables = sys._getframe(1).f_locals
            at[0] = variables["state"].step + 1
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["factor"]
            snapshots[at[0]] = snapshot(variables)
            if at[0] == stop_in:
                os.kill(os.getpid(), signal.SIGTERM)

        def loss(self, model, batch):
            total, count = honest(self, model, batch)
            if not model.training:
                return total, count
            if at[0] == 3 and len(batch.input_ids) > 2:
                raise MemoryError
            return (total * float("nan") if at[0] == 6 else total), count

        monkeypatch.setattr("minift.training.loop.set_learning_rate", look)
        monkeypatch.setattr(ClassificationTask, "loss", loss)
        run(ClassificationTask, task, replace(options, output_dir=folder, **changes))
        return snapshots

    return watch


def test_all_that_changes_is_listed(watched, tmp_path, capsys):
    snapshots = watched(tmp_path / "out")
    assert len(snapshots) == 14
    changed = {
        path
        for step in range(1, 14)
        for path in changes(snapshots[step], snapshots[step + 1])
        if not matches(path, DERIVED)
    }
    assert {path for path in changed if not matches(path, LISTED)} == set()
    for pattern in LISTED:
        assert any(re.fullmatch(pattern, path) for path in changed), pattern


def test_a_resumed_run_has_all_of_it_again(watched, tmp_path, capsys):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    expected = watched(straight)
    with pytest.raises(Stopped, match="after step 10 of 14"):
        watched(stopped, stop_in=10)
    # Nothing has its first value, so the comparison says something about each field.
    saved, first = asdict(read_state(stopped)), asdict(TrainerState())
    assert {name for name in saved if saved[name] == first[name]} == set()
    assert saved["skipped"] == 1
    assert saved["max_micro_batch"] == 2
    tensors = load_file(stopped / "state" / "state.safetensors")
    for place in LISTED.values():
        assert place in state.__doc__ or set(place.split(", ")) <= set(saved), place
        if place.endswith(".") or place.startswith("random"):
            assert any(name.startswith(place) for name in tensors), place

    found = watched(stopped, resume=True)
    assert min(found) == 11
    for step, values in found.items():
        different = changes(expected[step], values)
        assert {path for path in different if not matches(path, OTHERS_OWN)} == set(), step
    assert read_lines(straight / "log.jsonl") == read_lines(stopped / "log.jsonl")
    first, second = (load_file(folder / "model.safetensors") for folder in (straight, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)
