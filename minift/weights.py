"""Reading and writing checkpoints in safetensors, with one weight map for both directions.

In: a folder with `model.safetensors`, or with shards and `model.safetensors.index.json`.
Out: `model.safetensors`, under the names that `transformers` uses.

A model and a checkpoint differ in names and in the shapes of some tensors.  For example, minift
keeps query, key and value in one matrix, a checkpoint in three:

    layers.0.attention.qkv.weight (3H, H)   =   ...self.query.weight (H, H)
                                                ...self.key.weight   (H, H)     stacked by rows
                                                ...self.value.weight (H, H)

A family's `WeightMap` lists these pairs.  Loading stacks the tensors, saving splits them again.
Loading refuses a checkpoint with a tensor that is missing, unexpected or of another shape.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minift.errors import UserError
from minift.files import (
    check_whole,
    is_present,
    open_regular,
    require_space,
    shard_names,
    write_atomically,
)
from minift.options import shorten

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 10_000_000  # about 100,000 tensors; the largest T5 has 1,000
FLOATS = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)


@dataclass(frozen=True)
class WeightMap:
    """The names of a model's tensors here and in a checkpoint.

    prefix: of the encoder's names in a checkpoint with a head, for example "bert.".
    names: minift's name -> the checkpoint's name, or several that are stacked by rows.  `{i}` is
        the number of a layer.
    ignored: regular expression for checkpoint names -> the reason to ignore such tensors.
    aliases: the old ending of a name -> the present one.
    """

    prefix: str
    names: Mapping[str, str | tuple[str, ...]]
    ignored: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def with_head(self, attribute: str, head: Mapping[str, str]) -> WeightMap:
        """The map of a model that holds this map's encoder, under `attribute`, and a head.

        head: minift's name -> the checkpoint's name of each tensor of the head.

        >>> encoder = WeightMap("bert.", {"pooler.weight": "pooler.dense.weight"})
        >>> encoder.with_head("encoder", {"head.weight": "classifier.weight"}).names
        {'encoder.pooler.weight': 'bert.pooler.dense.weight', 'head.weight': 'classifier.weight'}
        """

        def prefixed(names: str | tuple[str, ...]) -> str | tuple[str, ...]:
            if isinstance(names, str):
                return self.prefix + names
            return tuple(self.prefix + name for name in names)

        encoder = {f"{attribute}.{ours}": prefixed(names) for ours, names in self.names.items()}
        return replace(self, names={**encoder, **head})

    def checkpoint_names(self, ours: str) -> tuple[str, ...]:
        """The names in a checkpoint for one of minift's names, in the order of their rows."""
        number = re.search(r"\.(\d+)\.", ours)
        names = self.names[re.sub(r"\.\d+\.", ".{i}.", ours, count=1)]
        names = (names,) if isinstance(names, str) else names
        return tuple(name.format(i=number and number[1]) for name in names)

    def modules_in_checkpoint(self, ours: str) -> list[str]:
        """The checkpoint's modules for one of minift's, without numbered layers in it."""
        theirs = (
            name
            for own in self.names
            if own.startswith(f"{ours}.")
            for name in self.checkpoint_names(own)
        )
        return list(dict.fromkeys(name.rpartition(".")[0] for name in theirs))

    def canonical(self, name: str) -> str:
        """A checkpoint's name without the prefix and with its present ending, for comparison.

        `torch.compile` and DistributedDataParallel put "_orig_mod." and "module." into names.
        """
        name = re.sub(r"(^|\.)((_orig_mod|module)\.)+", r"\1", name)
        for old, new in self.aliases.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return name.removeprefix(self.prefix)

    def reason_to_ignore(self, name: str) -> str | None:
        """Why a tensor of a checkpoint may be ignored; None if it may not."""
        return next((why for p, why in self.ignored.items() if re.fullmatch(p, name)), None)


def weights_and_biases(
    names: Mapping[str, str | tuple[str, ...]],
) -> dict[str, str | tuple[str, ...]]:
    """Names of modules -> names of their weights and biases, for a `WeightMap`.

    >>> weights_and_biases({"pooler": "pooler.dense"})
    {'pooler.weight': 'pooler.dense.weight', 'pooler.bias': 'pooler.dense.bias'}
    """
    expanded: dict[str, str | tuple[str, ...]] = {}
    for ours, checkpoint_names in names.items():
        for kind in ("weight", "bias"):
            if isinstance(checkpoint_names, str):
                expanded[f"{ours}.{kind}"] = f"{checkpoint_names}.{kind}"
            else:
                expanded[f"{ours}.{kind}"] = tuple(f"{name}.{kind}" for name in checkpoint_names)
    return expanded


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a checkpoint."""

    loaded: int  # tensors read
    ignored: Mapping[str, str]  # name in the checkpoint -> the reason
    new: tuple[str, ...]  # minift's names of the newly initialised parameters


class Checkpoint:
    """The tensors in a folder by canonical name.  A tensor is read only when requested."""

    def __init__(self, folder: Path, weight_map: WeightMap):
        self.folder = folder
        self.ignored: dict[str, str] = {}
        self.files: dict[str, tuple[TensorFile, str]] = {}
        for path in weight_files(folder):
            file = TensorFile(path)
            for key in file.names:
                name = weight_map.canonical(key)
                if name in self.files:
                    other = self.files[name][1]
                    raise UserError(
                        f"{path}: {shorten(key)} and {shorten(other)} are the same tensor twice; "
                        "remove one of them"
                    )
                self.files[name] = (file, key)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def ignore(self, pattern: str, reason: str) -> None:
        """Drop the tensors whose names match; the load report gives the reason."""
        for name in [name for name in self.files if re.fullmatch(pattern, name)]:
            del self.files[name]
            self.ignored[name] = reason

    def rename(self, name: str, new: str) -> None:
        """Give a tensor the canonical name that the weight map expects."""
        self.files[new] = self.files.pop(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading the tensor."""
        file, key = self.files[name]
        return file.shape(key)

    def num_rows(self, name: str) -> int:
        """The first number of a tensor's shape; 0 for a scalar."""
        return next(iter(self.shape(name)), 0)

    def tensor(self, name: str) -> Tensor:
        """A tensor in float32, whatever its dtype in the file; `UserError` as `TensorFile`."""
        file, key = self.files[name]
        return file.tensor(key)


class TensorFile:
    """A safetensors file that somebody else made.

    The library parses the header once, when the file is opened, and checks that the tensors lie in
    the file one after the other.
    Raises `UserError` for a file that is cut off or no safetensors file.
    """

    def __init__(self, path: Path):
        self.path = path
        check_whole(path)
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER_BYTES and length < os.fstat(file.fileno()).st_size:
                raise UserError(
                    f"{path}: its header has {length:,} bytes, more than the {MAX_HEADER_BYTES:,} "
                    "that minift reads; use a checkpoint of a family that it knows"
                )
        try:
            self._file = safe_open(path, framework="pt")
            self.names = self._file.keys()
        except (SafetensorError, OSError, ValueError) as error:
            raise self._damaged(error) from None

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """A tensor in float32; `UserError` for one of integers, and for NaN and infinity."""
        try:
            stored = self._file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise self._damaged(error) from None
        if stored.dtype not in FLOATS:
            raise UserError(
                f"{self.path}: {shorten(name)} holds {stored.dtype}, not floating-point weights; "
                "use a checkpoint in float32, float16 or bfloat16"
            )
        tensor = stored.float()
        if tensor.numel() and not all(map(math.isfinite, map(float, tensor.aminmax()))):
            raise UserError(
                f"{self.path}: the tensor {shorten(name)} holds NaN or infinity, with which a "
                "model computes nothing; restore the file, or train the model again"
            )
        return tensor

    def _damaged(self, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:200]
        return UserError(
            f"{self.path}: not a whole safetensors file ({reason}); download or save it again"
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: model.safetensors, or the shards in its index.

    Raises `UserError` if there is neither.
    """
    if is_present(folder / WEIGHTS):
        return [folder / WEIGHTS]
    if is_present(folder / INDEX):
        names = shard_names(folder / INDEX)
        for name in names:
            if not is_present(folder / name):
                raise UserError(
                    f"{folder / INDEX}: names the shard {shorten(name)}, which is not there; "
                    "download it too"
                )
        return [folder / name for name in names]
    if is_present(folder / "pytorch_model.bin"):
        raise UserError(
            f"{folder}: holds only pytorch_model.bin, a pickle that could run code when opened; "
            f"convert it to {WEIGHTS}"
        )
    raise UserError(f"{folder}: no {WEIGHTS} here; give a folder that holds a checkpoint")


def load(
    model: nn.Module, checkpoint: Checkpoint, weight_map: WeightMap, new: Iterable[str] = ()
) -> LoadReport:
    """Assign the tensors of a checkpoint to a model on the meta device.

    new: names of parameters that the checkpoint lacks, such as a new head's.  They stay on the
        meta device, and the caller initialises them.
    Raises `UserError`, which names the tensor, if one is missing, unknown or of another shape.
    """
    new = tuple(new)
    used: set[str] = set()
    state: dict[str, Tensor] = {}
    for ours, parameter in model.state_dict().items():
        if ours in new:
            continue
        names = [weight_map.canonical(name) for name in weight_map.checkpoint_names(ours)]
        for name in names:
            shape = (parameter.shape[0] // len(names), *parameter.shape[1:])
            if name not in checkpoint:
                raise UserError(
                    f"{checkpoint.folder}: the tensor {name!r} {shape} is missing; "
                    "use a checkpoint that has it"
                )
            found = checkpoint.shape(name)
            if found != shape:
                raise UserError(
                    f"{checkpoint.folder}: the tensor {name!r} is {found}, but config.json implies "
                    f"{shape}; use the config.json that belongs to these weights"
                )
        state[ours] = torch.cat([checkpoint.tensor(name) for name in names])
        used.update(names)

    ignored = dict(checkpoint.ignored)
    for name in checkpoint:
        if name not in used:
            reason = weight_map.reason_to_ignore(name)
            if reason is None:
                raise UserError(
                    f"{checkpoint.folder}: the tensor {shorten(name)} {checkpoint.shape(name)} is "
                    f"not part of a {type(model).__name__}; use a checkpoint of this family"
                )
            ignored[name] = reason
    model.load_state_dict(state, assign=True, strict=False)
    return LoadReport(len(used), ignored, new)


def export(model: nn.Module, weight_map: WeightMap) -> dict[str, Tensor]:
    """The model's tensors under their names in a checkpoint, stacked ones split."""
    tensors = {}
    for ours, tensor in model.state_dict().items():
        names = weight_map.checkpoint_names(ours)
        for name, part in zip(names, tensor.chunk(len(names)), strict=True):
            tensors[name] = part.detach().cpu().contiguous()
    return tensors


def save(
    model: nn.Module, weight_map: WeightMap, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write `model.safetensors` atomically: a reader sees the old file or the new one.

    dtype: of the tensors on disk.  Raises `UserError` if the disk has too little space.
    """
    tensors = {name: tensor.to(dtype) for name, tensor in export(model, weight_map).items()}
    folder.mkdir(parents=True, exist_ok=True)
    require_space(folder, sum(tensor.nbytes for tensor in tensors.values()))
    # `transformers` reads the framework that wrote the tensors from this metadata.
    write_atomically(
        folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"})
    )
