"""Saving and loading the training state, from which `--resume` continues an interrupted run.

    OUTPUT_DIR/state/state.safetensors    weights, the optimiser's moments, random generators
    OUTPUT_DIR/state/state.json           `TrainerState`: step, best score, sums of the log

state.py lists the contents.
Saving is atomic: a state is written into a temporary folder; once it is complete, the folder is
renamed, and its files replace the old ones.  A run killed at any moment, even during a save,
therefore finds the newest complete state (`finish_save`).  Other files in the folder stay.  No
pickle is used, so reading a state runs no code.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minift.errors import UserError
from minift.files import (
    check_whole,
    left_overs,
    read_json,
    require_space,
    sync,
    temporary_name,
    write_atomically,
    write_json,
    write_manifest,
    writing,
)
from minift.training.state import TrainerState

STATE = "state"
STATE_FILES = ("state.safetensors", "state.json", "manifest.json")
COMPLETE = "new"  # the end of the temporary folder's name once the state in it is complete


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainerState,
    mean: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Save everything that the next step depends on.  `UserError` if the disk is full.

    mean: a mean of weights, by the names of the parameters.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        slots = optimizer.state.get(parameter, {})
        tensors.update({f"optimizer.{name}.{slot}": tensor for slot, tensor in slots.items()})
    tensors.update({f"mean.{name}": tensor for name, tensor in mean.items()})
    tensors["random.cpu"] = torch.get_rng_state()
    if (device := _device(model)).type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    finish_save(folder)
    new = temporary_name(folder / STATE)
    with writing(folder / STATE):
        new.mkdir()
        try:
            require_space(folder, sum(tensor.nbytes for tensor in tensors.values()))
            write_atomically(new / "state.safetensors", lambda path: save_file(tensors, path))
            write_json(new / "state.json", asdict(state))
            write_manifest(new, ("state.safetensors", "state.json"))
            os.rename(new, new.with_suffix(f".{COMPLETE}"))
            sync(folder)
            finish_save(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def finish_save(folder: Path) -> None:
    """Let a complete new state replace the old one, which a killed process may not have done."""
    for new in left_overs(folder, {STATE}, COMPLETE):
        current = folder / STATE
        with writing(current):
            if current.is_symlink():
                current.unlink()  # its target is somebody's
            current.mkdir(exist_ok=True)
            for name in STATE_FILES:
                if (new / name).exists():  # else it was moved before the process was killed
                    os.replace(new / name, current / name)
            sync(current)
            shutil.rmtree(new)
            sync(folder)


def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    mean: Mapping[str, Tensor] = MappingProxyType({}),
) -> TrainerState | None:
    """Load model, optimiser, random generators and the tensors of `mean`, in place.

    Returns None if no state was saved.  `UserError` for a state that is damaged or does not fit.
    """
    state = read_state(folder)
    if state is None:
        return None
    path = folder / STATE / "state.safetensors"
    check_whole(path)
    with _fitting(path):
        tensors = load_file(path)
        model.load_state_dict(_with_prefix(tensors, "model."))
        optimizer.load_state_dict(
            {**optimizer.state_dict(), "state": _optimizer_slots(tensors, model, optimizer)}
        )
        if state.averaged:
            for name, tensor in mean.items():
                tensor.copy_(tensors[f"mean.{name}"])
        torch.set_rng_state(tensors["random.cpu"])
        if (device := _device(model)).type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
    return state


def read_state(folder: Path) -> TrainerState | None:
    """The position of the run in a folder; None if no state was saved."""
    finish_save(folder)
    path = folder / STATE / "state.json"
    if not path.exists():
        return None
    with _fitting(path):
        return TrainerState.from_dict(read_json(path))


def remove_state(folder: Path) -> None:
    """Delete the state of a finished run; the folder too, if it holds nothing else."""
    current = folder / STATE
    with writing(current):
        if current.is_symlink():
            current.unlink()
        for name in STATE_FILES:
            (current / name).unlink(missing_ok=True)
        with suppress(OSError):
            current.rmdir()


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Turn an error of reading a state that does not fit into a `UserError` that names the path."""
    try:
        yield
    except (SafetensorError, OSError, RuntimeError, TypeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: is not the state of this run ({reason}); start again with --overwrite"
        ) from None


def _optimizer_slots(
    tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """The moments of each parameter, by its number in the optimiser.

    Raises `KeyError` for moments of a parameter that the optimiser does not have.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = {id(parameter): i for i, parameter in enumerate(parameters)}
    names = {name: id(parameter) for name, parameter in model.named_parameters()}
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _with_prefix(tensors, "optimizer.").items():
        name, _, slot = key.rpartition(".")
        slots.setdefault(numbers[names[name]], {})[slot] = tensor
    return slots


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
