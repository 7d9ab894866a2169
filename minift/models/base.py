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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from minift import hub, weights
from minift.errors import UserError, escape_fields
from minift.files import write_json
from minift.models.config import (
    CONFIG,
    MAX_LABEL_CHARS,
    MAX_LABELS,
    OWN_PREFIX,
    PretrainedConfig,
    default_labels,
)
from minift.nn.lora import merge_lora
from minift.options import shorten

ModelType = TypeVar("ModelType", bound="PretrainedModel")

HEAD = "head"  # the attribute of a model that holds its head


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
        else:
            config = dataclasses.replace(config, labels=None, problem_type=None)
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

    @classmethod
    def head_fits(cls, folder: Path, config: Any) -> bool:
        """Whether a checkpoint has the whole head that a config describes; False without a head."""
        return False

    def prepare_for(self, checkpoint: weights.Checkpoint, head_is_new: bool) -> set[str]:
        """Fit optional modules to the checkpoint; returns the modules to initialise.

        Called with the model on the meta device, before any tensor is read.
        """
        return set()

    def replace_tied_output(self, make_layer: Callable[[Tensor], nn.Module]) -> None:
        """Replace an output layer that is tied to the embeddings by `make_layer(weight)`, in place.

        Families without a tied output layer need not override this.
        """

    @property
    def unlike_transformers(self) -> str | None:
        """Why `transformers` would not compute the same from the saved files; None: it does."""
        return None

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json and model.safetensors in the layout that `transformers` loads.

        A model that `transformers` would compute otherwise gets a model_type of minift's own.
        LoRA updates are merged into the written weights; the model itself does not change.

        dtype: of the tensors on disk.  `from_pretrained` reads every dtype as float32.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = dataclasses.replace(self.config, architectures=(type(self).__name__,))
        values = config.to_dict()
        if self.unlike_transformers is not None:
            values["model_type"] = OWN_PREFIX + config.model_type
        write_json(folder / CONFIG, values)
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
    if requested is not None and (
        len(requested) > MAX_LABELS or sum(map(len, requested)) > MAX_LABEL_CHARS
    ):
        raise UserError(
            f"{checkpoint.folder}: a head of {len(requested):,} labels is asked for, such as "
            f"{shorten(requested[0])}; at most {MAX_LABELS:,} labels of {MAX_LABEL_CHARS:,} "
            "characters in all can be saved: choose another column"
        )

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
        return dataclasses.replace(config, labels=requested, problem_type=None), True
    if requested is None and config.head_error is not None:
        raise UserError(
            f"{checkpoint.folder / CONFIG}: {config.head_error}; correct it, or train a new head"
        )

    rows = checkpoint.num_rows(label_rows)
    if not 0 < rows <= MAX_LABELS:
        raise UserError(
            f"{checkpoint.folder}: the tensor {label_rows!r} has {rows:,} rows; a head has from 1 "
            f"to {MAX_LABELS:,} labels: download the checkpoint again"
        )
    own = config.labels or default_labels(rows)
    named = labels is not None and own != default_labels(len(own))
    if requested is not None and (len(requested) != rows or (named and requested != own)):
        raise UserError(
            f"{checkpoint.folder}: the tensor {label_rows!r} has {rows} labels "
            f"({_listed(own)}), not {len(requested)} ({_listed(requested)}); "
            "ask for these labels, or for a new head with reset_head=True"
        )
    return dataclasses.replace(config, labels=requested if labels is not None else own), False


def _listed(labels: Sequence[str]) -> str:
    return escape_fields(", ".join(labels))[:200]
