"""What every pretrained model can do: be read from a folder in Hugging Face layout and saved back.

A family gives a config class, a model class and a `NameTable`; this file turns them into
`from_pretrained` and `save_pretrained`.  Nothing is ever silently random: a tensor is read from the
checkpoint, or it belongs to a head that the caller asked for, or loading is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from minift import hub, weights
from minift.errors import InputError
from minift.files import read_json, write_json

ConfigType = TypeVar("ConfigType", bound="PretrainedConfig")
ModelType = TypeVar("ModelType", bound="PretrainedModel")

CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """The fields that every family's config.json shares."""

    model_type: ClassVar[str]
    # Values of config.json that change the computation and that the family does not implement:
    # name -> the only values that are fine.
    fixed: ClassVar[Mapping[str, Sequence[Any]]] = {}
    dropouts: ClassVar[Mapping[str, str]] = {}  # what is dropped -> the field with its rate
    hard_limit: ClassVar[bool] = True  # no input may be longer than max_position_embeddings

    labels: tuple[str, ...] | None = None  # class names in the order of the logits
    attn_implementation: str = "sdpa"  # "sdpa": torch's kernels; "eager": the formula written out
    architectures: tuple[str, ...] = ()  # which model class the weights were saved from
    extra: Mapping[str, Any] = field(default_factory=dict)  # the rest of config.json, kept for save

    def __post_init__(self) -> None:
        require(self, "attn_implementation", ("sdpa", "eager"))
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"label names must differ, not {list(self.labels)}")

    @classmethod
    def from_dict(cls: type[ConfigType], values: Mapping[str, Any], **overrides: Any) -> ConfigType:
        """A config from the contents of a config.json; `ValueError` for what cannot be."""
        values = dict(values)
        found = values.pop("model_type", None)
        if found != cls.model_type:
            raise ValueError(f"model_type is {found!r}, not {cls.model_type!r}")
        for name, fine in cls.fixed.items():
            if values.get(name, fine[0]) not in fine:
                raise ValueError(f"{name} is {values[name]!r}; only {fine[0]!r} is supported")
        values["labels"] = read_labels(values.pop("id2label", None))
        values.pop("label2id", None)  # the same again, the other way round
        architectures = values.get("architectures") or []
        if not isinstance(architectures, list):
            raise ValueError(f"architectures is {architectures!r:.80}; write it as a list of names")
        values["architectures"] = tuple(map(str, architectures))
        own = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        known = {name: value for name, value in values.items() if name in own}
        extra = {name: value for name, value in values.items() if name not in own}
        unknown = set(overrides) - own
        if unknown:
            raise TypeError(f"{cls.__name__} has no field {sorted(unknown)[0]!r}")
        return cls(**{**known, **overrides}, extra=extra)

    @classmethod
    def from_pretrained(cls: type[ConfigType], folder: Path, **overrides: Any) -> ConfigType:
        """The config of a checkpoint's folder; `InputError` naming the file if it does not fit."""
        path = Path(folder) / CONFIG
        values = read_json(path)
        try:
            if not isinstance(values, dict):
                raise ValueError("it is not a JSON object")
            return cls.from_dict(values, **overrides)
        except ValueError as error:
            raise InputError(f"{path}: {error}; use the config.json of the checkpoint") from None

    def to_dict(self) -> dict[str, Any]:
        """The contents of config.json, names as the field uses them."""
        own = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("labels", "extra", "attn_implementation")
        }
        values = {**self.extra, **own, "model_type": self.model_type, "dtype": "float32"}
        values.pop("torch_dtype", None)  # the older name of dtype
        if self.labels is not None:
            values["id2label"] = {str(i): label for i, label in enumerate(self.labels)}
            values["label2id"] = {label: i for i, label in enumerate(self.labels)}
        return values


def require(config: object, name: str, allowed: Sequence[Any]) -> None:
    value = getattr(config, name)
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


def require_number(config: object, name: str, low: float, high: float, kind: type = int) -> None:
    """A field is a number within bounds; bounds keep an absurd value from being allocated."""
    value = getattr(config, name)
    numeric = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not numeric or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a number from {low} to {high}")


def read_labels(id2label: Any) -> tuple[str, ...] | None:
    """{"0": "neg", "1": "pos"} -> ("neg", "pos"); the ids must be 0, 1, 2, ..."""
    if id2label is None:
        return None
    if not isinstance(id2label, dict) or set(id2label) != set(map(str, range(len(id2label)))):
        raise ValueError(f"id2label must map '0', '1', ... to names, not {id2label!r:.80}")
    return tuple(str(id2label[str(i)]) for i in range(len(id2label)))


def default_labels(count: int) -> tuple[str, ...]:
    """The names that the field gives to classes that nobody named."""
    return tuple(f"LABEL_{i}" for i in range(count))


class PretrainedModel(nn.Module):
    """A model with a config, a name table, and a way in from disk and out again."""

    config_class: ClassVar[type[PretrainedConfig]]
    table: ClassVar[weights.NameTable]
    head: ClassVar[str | None] = None  # our name for the module that makes the logits
    labelled: ClassVar[bool] = True  # the head has a row for each of the task's labels
    bottom: ClassVar[Sequence[str]] = ()  # modules below the first layer, by any part of a name

    config: Any
    report: weights.LoadReport | None = None  # what from_pretrained found

    def __init__(self, config: PretrainedConfig):
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def depth_of(self, parameter: str) -> int:
        """How far up a parameter is: 0 the embeddings, i + 1 layer i, then all that stands above.

        BERT with two layers: embeddings.word 0, layers.0 1, layers.1 2, pooler and classifier 3.
        """
        number = re.search(r"\blayers\.(\d+)\.", parameter)
        if number:
            return int(number[1]) + 1
        return 0 if set(parameter.split(".")) & set(self.bottom) else self.top_layer + 1

    @property
    def top_layer(self) -> int:
        """The depth of the last layer."""
        numbers = (re.search(r"\blayers\.(\d+)\.", name) for name, _ in self.named_parameters())
        return max((int(number[1]) + 1 for number in numbers if number), default=0)

    @classmethod
    def from_pretrained(
        cls: type[ModelType],
        source: str | Path,
        *,
        num_labels: int | None = None,
        labels: Sequence[str] | None = None,
        new_head: bool = False,
        revision: str | None = None,
        **overrides: Any,
    ) -> ModelType:
        """Read a model, in eval mode, float32, on the CPU.

        source: a folder in Hugging Face layout, a name under weights/, or a hub id.
        num_labels, labels: ask for a head of that size, or with those class names.  A checkpoint
            that has one must agree; one that has none gets a new one.
        new_head: leave the checkpoint's own head aside and start a new one.
        overrides: fields of the config to change, such as `hidden_dropout_prob=0.0`.

        Raises `InputError` for a checkpoint that cannot be used, naming the tensor or the field.
        """
        folder = hub.resolve(source, revision)
        config = cls.config_class.from_pretrained(folder, **overrides)
        checkpoint = weights.Checkpoint(folder, cls.table)
        new: set[str] = set()
        if cls.head is not None and cls.labelled:
            config, new_head = _head_config(cls, config, checkpoint, num_labels, labels, new_head)
        elif num_labels is not None or labels is not None:
            raise TypeError(f"{cls.__name__} has no labels: leave num_labels and labels out")
        if new_head:
            new.add(cls.head)
        config = dataclasses.replace(config, architectures=(cls.__name__,))

        # On the meta device nothing is allocated until config and weights are known to agree.
        with torch.device("meta"):
            model = cls(config)
        new |= model.adapt(checkpoint, head_is_new=bool(new))
        fresh = [f"{m}.{name}" for m in sorted(new) for name in model.get_submodule(m).state_dict()]
        model.report = weights.load(model, checkpoint, cls.table, fresh)
        for name in sorted(new):  # an order that does not change from one process to the next
            model.get_submodule(name).to_empty(device="cpu").apply(model.init_weights)
        return model.eval()

    def adapt(self, checkpoint: weights.Checkpoint, head_is_new: bool) -> set[str]:
        """Fit optional parts to what the checkpoint has; returns the modules to start anew."""
        return set()

    def init_weights(self, module: nn.Module) -> None:
        """Give one module its values at the beginning of training."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json and model.safetensors, which `transformers` loads as they are.

        A model with LoRA is written with its updates merged.

        dtype: that of the tensors on disk; whoever reads them computes in float32 all the same.
        """
        from minift.nn.lora import merge_lora  # here, since that file builds on this one

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = dataclasses.replace(self.config, architectures=(type(self).__name__,))
        write_json(folder / CONFIG, config.to_dict())
        weights.save(merge_lora(self), self.table, folder, dtype)


def _head_config(
    cls: type[PretrainedModel],
    config: PretrainedConfig,
    checkpoint: weights.Checkpoint,
    num_labels: int | None,
    labels: Sequence[str] | None,
    new_head: bool,
) -> tuple[PretrainedConfig, bool]:
    """Whose labels count, and whether the head must be new.  Returns (config, head is new)."""
    asked = tuple(map(str, labels)) if labels is not None else None
    if asked is None and num_labels is not None:
        asked = default_labels(num_labels)
    if asked is not None and num_labels not in (None, len(asked)):
        raise ValueError(f"num_labels is {num_labels}, but {len(asked)} labels are given")

    names = cls.table.theirs(f"{cls.head}.weight")
    # Heads of different tasks share the name "classifier"; config.json says whose it is.
    someone_elses = config.architectures and cls.__name__ not in config.architectures
    if new_head or someone_elses or not any(name in checkpoint for name in names):
        if asked is None:
            raise InputError(
                f"{checkpoint.folder}: the checkpoint has no head for {cls.__name__}; "
                "ask for a new one with num_labels= or labels="
            )
        checkpoint.leave_aside(f"{cls.head}\\..*", "the head of another task")
        return dataclasses.replace(config, labels=asked), True

    rows = checkpoint.shape(names[0])[0]
    own = config.labels or default_labels(rows)
    named = labels is not None and own != default_labels(len(own))
    if asked is not None and (len(asked) != rows or (named and asked != own)):
        raise InputError(
            f"{checkpoint.folder}: the tensor {names[0]!r} has {rows} labels "
            f"({', '.join(own)}), not {len(asked)} ({', '.join(asked)}); "
            "ask for these labels, or for a new head with new_head=True"
        )
    return dataclasses.replace(config, labels=asked if labels is not None else own), False
