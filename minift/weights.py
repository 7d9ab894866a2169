"""Safetensors in and out: a family's name table applied both ways, every surprise refused.

In: a folder with `model.safetensors`, or shards with `model.safetensors.index.json`.
Out: the same layout, under the names that the field uses.

A checkpoint and a model need not name things alike, nor cut them alike: minift keeps query, key and
value as one matrix, checkpoints as three.  The family's `NameTable` says which of their tensors,
stacked by rows, make one of ours, and the same table is read backwards to save.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minift.errors import InputError
from minift.files import check_whole, read_json, require_space, write_atomically

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class NameTable:
    """How a family's tensors are called on disk.

    prefix: what the names of the bare encoder begin with inside a model with a head.
    names: our name -> theirs, or several of theirs stacked by rows; `{i}` stands for a number.
    ignored: regular expression of their names -> why such a tensor is left aside.
    spellings: old ending of a name -> its ending today.
    """

    prefix: str
    names: Mapping[str, str | tuple[str, ...]]
    ignored: Mapping[str, str] = field(default_factory=dict)
    spellings: Mapping[str, str] = field(default_factory=dict)

    def theirs(self, ours: str) -> tuple[str, ...]:
        """Their name or names for one of ours, in the order in which the rows are stacked."""
        prefix = self.prefix if ours.startswith(self.prefix) else ""
        number = re.search(r"\.(\d+)\.", ours)
        template = re.sub(r"\.\d+\.", ".{i}.", ours.removeprefix(prefix), count=1)
        names = self.names[template]
        names = (names,) if isinstance(names, str) else names
        return tuple(prefix + name.format(i=number and number[1]) for name in names)

    def canonical(self, name: str) -> str:
        """A name without the prefix, in today's spelling: what names are compared by."""
        for old, new in self.spellings.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return name.removeprefix(self.prefix)

    def reason_to_ignore(self, name: str) -> str | None:
        return next((why for p, why in self.ignored.items() if re.fullmatch(p, name)), None)


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint: tensors read, left aside (name -> reason) and made new."""

    loaded: int
    ignored: Mapping[str, str]
    new: tuple[str, ...]


class Checkpoint:
    """The tensors of a folder, by canonical name; nothing is read before it is asked for."""

    def __init__(self, folder: Path, table: NameTable):
        self.folder = folder
        self.aside: dict[str, str] = {}
        self.files: dict[str, tuple[Path, str]] = {}
        for path in weight_files(folder):
            with opened(path) as file:
                for key in file.keys():  # noqa: SIM118 (not a mapping)
                    name = table.canonical(key)
                    if name in self.files:
                        other = self.files[name][1]
                        raise InputError(
                            f"{path}: {key!r} and {other!r} are the same tensor twice; "
                            "remove one of them"
                        )
                    self.files[name] = (path, key)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def leave_aside(self, pattern: str, reason: str) -> None:
        """Take the tensors that match out of sight; the load report says why."""
        for name in [name for name in self.files if re.fullmatch(pattern, name)]:
            del self.files[name]
            self.aside[name] = reason

    def rename(self, name: str, new: str) -> None:
        """Let a tensor go by another name: one that stands for it in today's layout."""
        self.files[new] = self.files.pop(name)

    def shape(self, name: str) -> tuple[int, ...]:
        path, key = self.files[name]
        with opened(path) as file:
            return tuple(file.get_slice(key).get_shape())

    def tensor(self, name: str) -> Tensor:
        """The tensor in float32: checkpoints may be stored in half precision, we train in full."""
        path, key = self.files[name]
        with opened(path) as file:
            tensor = file.get_tensor(key)
        if not tensor.is_floating_point():
            raise InputError(f"{path}: {key!r} holds {tensor.dtype}, not floating-point weights")
        return tensor.float()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: the one, or the shards that the index names."""
    if (folder / WEIGHTS).exists():
        check_whole(folder / WEIGHTS)
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not shards:
            raise InputError(f"{folder / INDEX}: has no 'weight_map'; restore the file")
        names = sorted(set(map(str, shards.values())))
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise InputError(f"{folder / INDEX}: names the shard {name!r}, which is not there")
        return [folder / name for name in names]
    if (folder / "pytorch_model.bin").exists():
        raise InputError(
            f"{folder}: holds only pytorch_model.bin, a pickle that could run code when opened; "
            f"convert it to {WEIGHTS}"
        )
    raise InputError(f"{folder}: no {WEIGHTS} here; give a folder that holds a checkpoint")


def opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: not a whole safetensors file ({reason}); download or save it again"
        ) from None


def load(
    model: nn.Module, checkpoint: Checkpoint, table: NameTable, new: Iterable[str] = ()
) -> LoadReport:
    """Fill a model that was built on the meta device.

    new: our names that the checkpoint is known to lack (a head that was asked for); they are left
    on the meta device for the caller to initialise.  A tensor that is missing, of another shape or
    in nobody's table is an `InputError` that names it.
    """
    new = tuple(new)
    taken: set[str] = set()
    state: dict[str, Tensor] = {}
    for ours, parameter in model.state_dict().items():
        if ours in new:
            continue
        names = [table.canonical(name) for name in table.theirs(ours)]
        for name in names:
            shape = (parameter.shape[0] // len(names), *parameter.shape[1:])
            if name not in checkpoint:
                raise InputError(
                    f"{checkpoint.folder}: the tensor {name!r} {shape} is missing; "
                    "use a checkpoint that has it"
                )
            found = checkpoint.shape(name)
            if found != shape:
                raise InputError(
                    f"{checkpoint.folder}: the tensor {name!r} is {found}, but config.json makes "
                    f"it {shape}; use the config.json that belongs to these weights"
                )
        state[ours] = torch.cat([checkpoint.tensor(name) for name in names])
        taken.update(names)

    ignored = dict(checkpoint.aside)
    for name in checkpoint:
        if name not in taken:
            reason = table.reason_to_ignore(name)
            if reason is None:
                raise InputError(
                    f"{checkpoint.folder}: the tensor {name!r} {checkpoint.shape(name)} is not "
                    f"part of a {type(model).__name__}; use a checkpoint of this family"
                )
            ignored[name] = reason
    model.load_state_dict(state, assign=True, strict=False)
    return LoadReport(len(taken), ignored, new)


def export(model: nn.Module, table: NameTable) -> dict[str, Tensor]:
    """The model's tensors under their names on disk, cut the way they are cut there."""
    tensors = {}
    for ours, tensor in model.state_dict().items():
        names = table.theirs(ours)
        for name, part in zip(names, tensor.chunk(len(names)), strict=True):
            tensors[name] = part.detach().cpu().contiguous()
    return tensors


def save(
    model: nn.Module, table: NameTable, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write `model.safetensors`; whoever reads meanwhile sees the old file or the new one."""
    tensors = {name: tensor.to(dtype) for name, tensor in export(model, table).items()}
    folder.mkdir(parents=True, exist_ok=True)
    require_space(folder, sum(tensor.nbytes for tensor in tensors.values()))
    # Readers of the format look here for the framework whose memory layout was stored.
    write_atomically(
        folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"})
    )
