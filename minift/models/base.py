"""Reading a pretrained model from a folder in Hugging Face layout, and saving it back.

A family provides a config class, model classes and a `WeightMap`; this file turns them into
`from_pretrained` and `save_pretrained`.  No layer is ever silently random: a tensor is read from
the checkpoint, or it belongs to a head that the caller asked for, or loading is refused.

A name on disk and the name of an attribute are two things.  `PretrainedConfig.disk_names` maps the
fields of a config, `WeightMap.names` the tensors:

    here                                  on disk
    config.hidden_size                    "hidden_size" (BERT), "dim" (DistilBERT)
    encoder.layers.0.attention.output     bert.encoder.layer.0.attention.output.dense
                                          distilbert.transformer.layer.0.attention.out_lin
    head                                  classifier, or qa_outputs
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from minift import hub, weights
from minift.errors import UserError
from minift.files import read_json, write_json
from minift.nn.lora import merge_lora
from minift.options import require

ConfigType = TypeVar("ConfigType", bound="PretrainedConfig")
ModelType = TypeVar("ModelType", bound="PretrainedModel")

CONFIG = "config.json"
HEAD = "head"  # the attribute of a model that holds its head


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The size of a new model of any family.

    max_tokens: of the longest input.  dropout: the probability of every dropout.
    pad_token_id, eos_token_id: of the tokenizer; None: it has no end token.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_tokens: int
    dropout: float
    pad_token_id: int
    eos_token_id: int | None


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(ABC):
    """The fields that every family's config.json shares."""

    model_type: ClassVar[str]
    # Fields of config.json that change the computation: name -> the values that the family
    # implements.  A checkpoint with another value is refused.
    supported_values: ClassVar[Mapping[str, Sequence[Any]]] = {}
    disk_names: ClassVar[Mapping[str, str]] = {}  # field -> its key in config.json, if another
    dropouts: ClassVar[Sequence[str]] = ()  # the fields that are probabilities of a dropout
    has_max_tokens: ClassVar[bool] = True  # no text may exceed `max_tokens`

    labels: tuple[str, ...] | None = None  # class names, in the order of the logits
    attn_implementation: str = "sdpa"  # "sdpa": torch's kernels; "eager": the formula written out
    architectures: tuple[str, ...] = ()  # the model class that was saved
    # The keys of config.json that minift does not read; `to_dict` writes them back.
    other_keys: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self, "attn_implementation", ("sdpa", "eager"))
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"label names must differ, not {list(self.labels)}")

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Maximum number of tokens of a text, special tokens included."""

    @classmethod
    @abstractmethod
    def from_size(cls: type[ConfigType], size: ModelSize) -> ConfigType:
        """The config of a new model of this size, for pre-training."""

    @classmethod
    def with_dropout(cls, probability: float) -> dict[str, float]:
        """The fields that set every dropout to this probability."""
        return dict.fromkeys(cls.dropouts, probability)

    @classmethod
    def from_dict(cls: type[ConfigType], values: Mapping[str, Any], **overrides: Any) -> ConfigType:
        """A config from the contents of a config.json.

        overrides: fields with other values than in the file.
        Raises `ValueError`, which names the field, for an unsupported value.
        """
        ours = {theirs: name for name, theirs in cls.disk_names.items()}
        values = {ours.get(key, key): value for key, value in values.items()}
        found = values.pop("model_type", None)
        if found != cls.model_type:
            raise ValueError(f"model_type is {found!r}, not {cls.model_type!r}")
        for name, allowed in cls.supported_values.items():
            if values.get(name, allowed[0]) not in allowed:
                raise ValueError(f"{name} is {values[name]!r}; only {allowed[0]!r} is supported")
        values["labels"] = read_labels(values.pop("id2label", None))
        values.pop("label2id", None)  # the inverse of id2label
        architectures = values.get("architectures") or []
        if not isinstance(architectures, list):
            raise ValueError(f"architectures is {architectures!r:.80}; write it as a list of names")
        values["architectures"] = tuple(map(str, architectures))
        own = {f.name for f in dataclasses.fields(cls)} - {"other_keys"}
        known = {name: value for name, value in values.items() if name in own}
        other_keys = {name: value for name, value in values.items() if name not in own}
        unknown = set(overrides) - own
        if unknown:
            raise TypeError(f"{cls.__name__} has no field {sorted(unknown)[0]!r}")
        return cls(**{**known, **overrides}, other_keys=other_keys)

    @classmethod
    def from_pretrained(cls: type[ConfigType], folder: Path, **overrides: Any) -> ConfigType:
        """The config in a checkpoint's folder; `UserError` names the file if it is unusable."""
        path = Path(folder) / CONFIG
        values = read_json(path)
        try:
            if not isinstance(values, dict):
                raise ValueError("it is not a JSON object")
            return cls.from_dict(values, **overrides)
        except ValueError as error:
            message = str(error)
            for name, key in cls.disk_names.items():
                message = re.sub(rf"\b{name}\b", key, message)
            raise UserError(f"{path}: {message}; use the config.json of the checkpoint") from None

    def to_dict(self) -> dict[str, Any]:
        """The contents of config.json, under the names that `transformers` uses."""
        own = {
            self.disk_names.get(f.name, f.name): getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("labels", "other_keys", "attn_implementation")
        }
        values = {**self.other_keys, **own, "model_type": self.model_type, "dtype": "float32"}
        values.pop("torch_dtype", None)  # the older name of dtype
        if self.labels is not None:
            values["id2label"] = {str(i): label for i, label in enumerate(self.labels)}
            values["label2id"] = {label: i for i, label in enumerate(self.labels)}
        return values


def read_labels(id2label: Any) -> tuple[str, ...] | None:
    """{"0": "neg", "1": "pos"} -> ("neg", "pos"); the ids must be 0, 1, 2, ..."""
    if id2label is None:
        return None
    if not isinstance(id2label, dict) or set(id2label) != set(map(str, range(len(id2label)))):
        raise ValueError(f"id2label must map '0', '1', ... to names, not {id2label!r:.80}")
    return tuple(str(id2label[str(i)]) for i in range(len(id2label)))


def default_labels(count: int) -> tuple[str, ...]:
    """The names that `transformers` gives to classes without names."""
    return tuple(f"LABEL_{i}" for i in range(count))


class PretrainedModel(nn.Module, ABC):
    """A model with a config and a weight map, which can be read from disk and saved.

    A family defines the abstract methods, and the class attributes where the defaults do not fit.

    head: the module that computes a task's logits; None for a bare encoder and for a model whose
        output layer has a row for each token.
    load_report: of `from_pretrained`, else None.
    """

    config_class: ClassVar[type[PretrainedConfig]]
    # Our name of the weight that has a row for each label; None: the model has no labels.
    label_rows: ClassVar[str | None] = None
    # The projections that LoRA adapts by default: those that mattered most in the paper.
    default_target_modules: ClassVar[tuple[str, ...]] = ()
    lora_excluded: ClassVar[tuple[str, ...]] = ()  # linear layers that LoRA never adapts
    peft_task_type: ClassVar[str | None] = None  # the name of the task in the `peft` library

    config: Any
    head: nn.Module | None

    def __init__(self, config: PretrainedConfig):
        super().__init__()
        self.config = config
        self.head = None
        self.load_report: weights.LoadReport | None = None

    @classmethod
    @abstractmethod
    def weight_map(cls) -> weights.WeightMap:
        """The names of the tensors here and in a checkpoint."""

    @abstractmethod
    def init_weights(self, module: nn.Module) -> None:
        """Initialise the parameters of one module for training."""

    @abstractmethod
    def embedding_modules(self) -> list[nn.Module]:
        """The modules below the first layer."""

    @abstractmethod
    def layer_stacks(self) -> list[nn.ModuleList]:
        """The layers from the lowest to the top: one list for an encoder, two with a decoder.

        Each layer has its feed-forward block as `feed_forward`.
        """

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def new_parameters(self) -> tuple[str, ...]:
        """Our names of the parameters that the checkpoint lacked."""
        return self.load_report.new if self.load_report else ()

    def head_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The names and parameters of the head; none without a head."""
        prefix = f"{HEAD}."
        return ((name, p) for name, p in self.named_parameters() if name.startswith(prefix))

    def layer_depths(self) -> dict[str, int]:
        """The depth of each parameter: 0 in embeddings, i + 1 in layer i, one more in the head.

        Everything above the last layer counts as head: pooler, head, the norms after a stack.
        Layer i of an encoder and layer i of its decoder have the same depth.
        BERT with two layers: embeddings.word 0, layers.0 1, layers.1 2, pooler and head 3.
        """
        modules = [(0, module) for module in self.embedding_modules()]
        for stack in self.layer_stacks():
            modules += enumerate(stack, start=1)
        depth_of = {id(p): depth for depth, module in modules for p in module.parameters()}
        top = self.num_layers + 1
        return {name: depth_of.get(id(p), top) for name, p in self.named_parameters()}

    @property
    def num_layers(self) -> int:
        """Layers of the longest stack: the depth of the last layer."""
        return max(map(len, self.layer_stacks()))

    @classmethod
    def from_pretrained(
        cls: type[ModelType],
        source: str | Path,
        *,
        num_labels: int | None = None,
        labels: Sequence[str] | None = None,
        reset_head: bool = False,
        revision: str | None = None,
        **overrides: Any,
    ) -> ModelType:
        """Read a model, in eval mode, float32, on the CPU.

        source: a folder in Hugging Face layout, a name under weights/, or a hub id.
        num_labels, labels: ask for a head of that size, or with those class names.  The head of a
            checkpoint must agree; a checkpoint without one gets a newly initialised head.
        reset_head: ignore the checkpoint's head and initialise a new one.
        overrides: fields of the config to change, such as `hidden_dropout_prob=0.0`.

        Raises `UserError`, which names the tensor or the field, for an unusable checkpoint.
        """
        folder = hub.find_checkpoint(source, revision)
        config = cls.config_class.from_pretrained(folder, **overrides)
        checkpoint = weights.Checkpoint(folder, cls.weight_map())
        new: set[str] = set()
        if reset_head and not hasattr(cls, "head_names"):
            raise TypeError(f"{cls.__name__} has no head: leave reset_head out")
        if cls.label_rows is not None:
            config, reset_head = _head_config(
                cls, config, checkpoint, num_labels, labels, reset_head
            )
        elif num_labels is not None or labels is not None:
            raise TypeError(f"{cls.__name__} has no labels: leave num_labels and labels out")
        if reset_head:
            new.add(HEAD)
        config = dataclasses.replace(config, architectures=(cls.__name__,))

        # The meta device allocates nothing until config and weights are known to agree.
        with torch.device("meta"):
            model = cls(config)
        new |= model.prepare_for(checkpoint, head_is_new=bool(new))
        missing = [
            f"{m}.{name}" for m in sorted(new) for name in model.get_submodule(m).state_dict()
        ]
        model.load_report = weights.load(model, checkpoint, cls.weight_map(), missing)
        for name in sorted(new):  # the order of random draws must not depend on a set's order
            model.get_submodule(name).to_empty(device="cpu").apply(model.init_weights)
        return model.eval()

    def prepare_for(self, checkpoint: weights.Checkpoint, head_is_new: bool) -> set[str]:
        """Fit optional modules to the checkpoint; returns the modules to initialise.

        Called with the model on the meta device, before any tensor is read.
        """
        return set()

    def replace_tied_output(self, make_layer: Callable[[Tensor], nn.Module]) -> None:
        """Replace an output layer that is tied to the embeddings by `make_layer(weight)`, in place.

        Families without a tied output layer need not override this.
        """

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json and model.safetensors in the layout that `transformers` loads.

        LoRA updates are merged into the written weights; the model itself does not change.

        dtype: of the tensors on disk.  `from_pretrained` reads every dtype as float32.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = dataclasses.replace(self.config, architectures=(type(self).__name__,))
        write_json(folder / CONFIG, config.to_dict())
        weights.save(merge_lora(self), self.weight_map(), folder, dtype)


def _head_config(
    cls: type[PretrainedModel],
    config: PretrainedConfig,
    checkpoint: weights.Checkpoint,
    num_labels: int | None,
    labels: Sequence[str] | None,
    reset_head: bool,
) -> tuple[PretrainedConfig, bool]:
    """Choose the labels and decide whether the head is new: (config, head is new)."""
    requested = None if labels is None else tuple(map(str, labels))
    if requested is None and num_labels is not None:
        requested = default_labels(num_labels)
    if requested is not None and num_labels not in (None, len(requested)):
        raise ValueError(f"num_labels is {num_labels}, but {len(requested)} labels are given")

    (label_rows,) = cls.weight_map().checkpoint_names(cls.label_rows)
    # Heads of several tasks are named "classifier"; config.json tells which task this one is for.
    other_task_head = config.architectures and cls.__name__ not in config.architectures
    if reset_head or other_task_head or label_rows not in checkpoint:
        if requested is None:
            raise UserError(
                f"{checkpoint.folder}: the checkpoint has no head for {cls.__name__}; fine-tune it "
                "with a training script first, or in Python ask for a new head with num_labels= or "
                "labels="
            )
        for module in cls.weight_map().modules_in_checkpoint(HEAD):
            checkpoint.ignore(rf"{re.escape(module)}\..*", "the head of another task")
        return dataclasses.replace(config, labels=requested), True

    rows = checkpoint.shape(label_rows)[0]
    own = config.labels or default_labels(rows)
    named = labels is not None and own != default_labels(len(own))
    if requested is not None and (len(requested) != rows or (named and requested != own)):
        raise UserError(
            f"{checkpoint.folder}: the tensor {label_rows!r} has {rows} labels "
            f"({', '.join(own)}), not {len(requested)} ({', '.join(requested)}); "
            "ask for these labels, or for a new head with reset_head=True"
        )
    return dataclasses.replace(config, labels=requested if labels is not None else own), False
