"""The state of a run that was interrupted, whole or not at all, and the way back into it.

    OUTPUT_DIR/state/state.safetensors    weights, the optimiser's moments, random generators
    OUTPUT_DIR/state/state.json           where the run stood

A state is written beside the old one and takes its place by renaming, so that a run killed at any
moment, also inside a save, finds the newest complete state.  No pickle: nothing runs on reading.
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

from minift.errors import InputError
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
class Progress:
    """Where a run stands.  `epoch` and `batch` count what is done; log_lines belong to it."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_score: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    stopped: bool = False
    skipped: int = 0
    loss_sum: float = 0.0  # this and the next since the last logged step
    loss_count: float = 0.0
    log_lines: int = 0


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    more: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Store everything that the next step depends on; more: further tensors by name."""
    new, old, state = folder / NEW, folder / OLD, folder / STATE
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, slots in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{i}.{slot}": tensor for slot, tensor in slots.items()})
    tensors.update({f"more.{name}": tensor for name, tensor in more.items()})
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with writing(state):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            require_space(folder, sum(tensor.nbytes for tensor in tensors.values()))
            save_file(tensors, new / "state.safetensors")
            write_json(new / "state.json", asdict(progress))
            write_manifest(new, ("state.safetensors", "state.json"))
            for path in (new / "state.safetensors", new):
                sync(path)
            # Between the two renames there is no `state`, but a whole `.state.old` to be read.
            if state.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.rename(state, old)
            os.rename(new, state)
            sync(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    more: Mapping[str, Tensor] = MappingProxyType({}),
) -> Progress | None:
    """Put model, optimiser, generators and `more` back where they were, in place.

    None if nothing was saved.
    """
    state = next((folder / name for name in (STATE, OLD) if (folder / name).is_dir()), None)
    if state is None:
        return None
    path = state / "state.safetensors"
    check_whole(path)
    try:
        tensors = load_file(path)
        progress = Progress(**read_json(state / "state.json"))
        model.load_state_dict(_part(tensors, "model."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, "optimizer.").items():
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
        raise InputError(
            f"{path}: not a state of this run ({reason}); start again with --overwrite"
        ) from None
    return progress


def remove_state(folder: Path) -> None:
    """A finished run needs no state to go on from."""
    for name in (STATE, NEW, OLD):
        shutil.rmtree(folder / name, ignore_errors=True)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
