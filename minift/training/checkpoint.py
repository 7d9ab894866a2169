"""Saving and loading the training state, from which `--resume` continues an interrupted run.

    OUTPUT_DIR/state/state.safetensors    weights, the optimiser's moments, random generators
    OUTPUT_DIR/state/state.json           `TrainerState`: step, best score, sums of the log

Saving is atomic: a state is written beside the old one and then replaces it by renaming.  A run
killed at any moment, even during a save, therefore finds the newest complete state.  No pickle is
used, so reading a state runs no code.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minift.errors import UserError
from minift.files import (
    check_whole,
    read_json,
    require_space,
    sync,
    write_json,
    write_manifest,
    writing,
)

STATE = "state"
NEW, OLD = f".{STATE}.new", f".{STATE}.old"


@dataclass
class TrainerState:
    """The position of a run, and the numbers that its next steps and log lines depend on."""

    epoch: int = 0  # complete epochs
    batch: int = 0  # complete steps of the current epoch
    step: int = 0  # complete steps of the run
    best_score: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    stopped: bool = False  # by early stopping
    skipped: int = 0  # steps with a loss or gradient that was not finite
    loss_sum: float = 0.0  # of the losses since the last logged step
    loss_count: float = 0.0  # number of the losses in `loss_sum`, or their total weight
    log_lines: int = 0  # lines of log.jsonl so far


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainerState,
    more: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Save everything that the next step depends on.  `UserError` if the disk is full.

    more: further tensors by name, such as a mean of weights.
    """
    new, old, current = folder / NEW, folder / OLD, folder / STATE
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, slots in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{i}.{slot}": tensor for slot, tensor in slots.items()})
    tensors.update({f"more.{name}": tensor for name, tensor in more.items()})
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with writing(current):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            require_space(folder, sum(tensor.nbytes for tensor in tensors.values()))
            save_file(tensors, new / "state.safetensors")
            write_json(new / "state.json", asdict(state))
            write_manifest(new, ("state.safetensors", "state.json"))
            for path in (new / "state.safetensors", new):
                sync(path)
            # Between the two renames there is no `state`, but `load_state` finds `.state.old`.
            if current.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.rename(current, old)
            os.rename(new, current)
            sync(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    more: Mapping[str, Tensor] = MappingProxyType({}),
) -> TrainerState | None:
    """Load model, optimiser, random generators and the tensors of `more`, in place.

    Returns None if no state was saved.  `UserError` for a state that is damaged or does not fit.
    """
    saved = next((folder / name for name in (STATE, OLD) if (folder / name).is_dir()), None)
    if saved is None:
        return None
    path = saved / "state.safetensors"
    check_whole(path)
    try:
        tensors = load_file(path)
        state = TrainerState(**read_json(saved / "state.json"))
        model.load_state_dict(_with_prefix(tensors, "model."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _with_prefix(tensors, "optimizer.").items():
            i, slot = name.split(".", 1)
            slots.setdefault(int(i), {})[slot] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        for name, tensor in more.items():
            tensor.copy_(tensors[f"more.{name}"])
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])
    except (SafetensorError, OSError, RuntimeError, TypeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: is not the state of this run ({reason}); start again with --overwrite"
        ) from None
    return state


def remove_state(folder: Path) -> None:
    """Delete the state of a finished run."""
    for name in (STATE, NEW, OLD):
        shutil.rmtree(folder / name, ignore_errors=True)


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
