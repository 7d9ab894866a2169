"""Saving and loading the training state, from which `--resume` continues an interrupted run.

    OUTPUT_DIR/state/state.safetensors    weights, the optimiser's moments, random generators
    OUTPUT_DIR/state/state.json           `TrainerState`: step, best score, sums of the log

state.py lists the contents.
Saving is atomic: a state is written beside the old one and then replaces it by renaming.  A run
killed at any moment, even during a save, therefore finds the newest complete state.  No pickle is
used, so reading a state runs no code.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    read_json,
    require_space,
    sync,
    write_json,
    write_manifest,
    writing,
)
from minift.training.state import TrainerState

STATE = "state"
NEW, OLD = f".{STATE}.new", f".{STATE}.old"


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
    new, old, current = folder / NEW, folder / OLD, folder / STATE
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        slots = optimizer.state.get(parameter, {})
        tensors.update({f"optimizer.{name}.{slot}": tensor for slot, tensor in slots.items()})
    tensors.update({f"mean.{name}": tensor for name, tensor in mean.items()})
    tensors["random.cpu"] = torch.get_rng_state()
    if (device := _device(model)).type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
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
    mean: Mapping[str, Tensor] = MappingProxyType({}),
) -> TrainerState | None:
    """Load model, optimiser, random generators and the tensors of `mean`, in place.

    Returns None if no state was saved.  `UserError` for a state that is damaged or does not fit.
    """
    state, saved = read_state(folder), _state_folder(folder)
    if state is None or saved is None:
        return None
    path = saved / "state.safetensors"
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
    saved = _state_folder(folder)
    if saved is None:
        return None
    path = saved / "state.json"
    with _fitting(path):
        return TrainerState.from_dict(read_json(path))


def remove_state(folder: Path) -> None:
    """Delete the state of a finished run."""
    for name in (STATE, NEW, OLD):
        shutil.rmtree(folder / name, ignore_errors=True)


def _state_folder(folder: Path) -> Path | None:
    return next((folder / name for name in (STATE, OLD) if (folder / name).is_dir()), None)


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
