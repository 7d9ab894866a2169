"""The interface between the pre-training run and an objective: `ModelOptions` and `Objective`.

An objective trains a tokenizer, loads the model whose pre-training continues, and turns blocks of
text into training batches.  The family's config makes a new model of a given size.

Dimensions: B batch, R tokens of a block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from minift.models.base import PretrainedModel
from minift.models.config import ModelSize
from minift.models.registry import FAMILIES
from minift.options import check_range, option
from minift.pretraining.vocabulary import SENTINELS
from minift.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelOptions:
    """Size and objective of the model; the defaults make a T5 of 9 million parameters."""

    family: Literal[tuple(FAMILIES)] = option(
        "t5",
        "Family of the model: encoder-decoders learn span corruption, encoders masked words.",
        common=True,
    )
    vocab_size: int = option(
        8000, "Tokens of the vocabulary; span corruption takes 100 as sentinels.", common=True
    )
    d_model: int = option(256, "Hidden size.", common=True)
    d_ff: int = option(1024, "Size of the feed-forward layers.")
    num_layers: int = option(4, "Layers of the encoder, and of a decoder.", common=True)
    num_heads: int = option(4, "Attention heads.")
    dropout: float = option(0.0, "Dropout in pre-training; text seen once needs none; 0: off.")
    gap_sentence_ratio: float = option(
        0.5,
        "Span corruption: share of the blocks that hide a whole sentence (PEGASUS); 0: off.",
    )
    lead_ratio: float = option(
        0.0,
        "Span corruption: share of the hidden sentences that are the first of their block; 0: off.",
    )
    full_text_ratio: float = option(
        0.0,
        "Span corruption: share of the corrupted blocks whose target is the full text (BART); 0: "
        "off.",
    )
    tokenizer_documents: int = option(20_000, "Documents to train the tokenizer on.")

    def __post_init__(self) -> None:
        check_range(self, "vocab_size", SENTINELS + 10, 10_000_000)
        for name in ("d_model", "d_ff"):
            check_range(self, name, 1, 65_536)
        for name in ("num_layers", "num_heads"):
            check_range(self, name, 1, 1024)
        check_range(self, "tokenizer_documents", 1)
        check_range(self, "dropout", 0, 0.99)
        for name in ("gap_sentence_ratio", "lead_ratio", "full_text_ratio"):
            check_range(self, name, 0, 1)
        if self.lead_ratio and not self.gap_sentence_ratio:
            raise ValueError(
                "--lead-ratio is a share of the hidden sentences of --gap-sentence-ratio, which is "
                "0; leave one of them out"
            )
        if self.d_model % self.num_heads:
            raise ValueError(
                f"--d-model is {self.d_model}, which is no multiple of --num-heads "
                f"{self.num_heads}; give a multiple"
            )


class Objective(ABC):
    """A pre-training objective, for every family that has a model of its kind.

    model_kind: the base class of the models that it trains.
    optimizer, default_learning_rate: the defaults; see `training.optim.make_optimizer`.
    num_special: special tokens that `batch` adds to a block.
    has_head: the model has a head, which may be trained while the encoder is frozen.
    ignored_options: the options of `ModelOptions` that belong to another objective.
    end_token_id: the token written after each document.
    """

    model_kind: ClassVar[type[PretrainedModel]]
    optimizer: ClassVar[str]
    default_learning_rate: ClassVar[float]
    num_special: ClassVar[int]
    has_head: ClassVar[bool]
    ignored_options: ClassVar[tuple[str, ...]] = ()
    end_token_id: int

    def __init_subclass__(cls, **settings: Any):
        super().__init_subclass__(**settings)
        for name in ("model_kind", "optimizer", "default_learning_rate", "num_special", "has_head"):
            if not hasattr(cls, name):
                raise TypeError(f"the objective {cls.__name__} must define {name}")

    @abstractmethod
    def __init__(self, tokenizer: Tokenizer, options: ModelOptions):
        """Find the special tokens; `UserError` for a tokenizer that lacks them."""

    @staticmethod
    @abstractmethod
    def make_tokenizer(documents: Iterable[str], vocab_size: int, folder: Path) -> None:
        """Train a tokenizer and write its files."""

    @staticmethod
    @abstractmethod
    def load_model(
        model_class: type[PretrainedModel], folder: Path, dropout: float
    ) -> PretrainedModel:
        """The model of a checkpoint whose pre-training continues."""

    @abstractmethod
    def batch(self, blocks: np.ndarray, random: np.random.Generator) -> tuple[Tensor, ...]:
        """Corrupt blocks (B, R) of tokens; returns the tensors that `loss` takes."""

    @staticmethod
    @abstractmethod
    def loss(model: Any, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses of the predicted tokens, and their number; batch: on the device."""


def new_model(
    model_class: type[PretrainedModel],
    tokenizer: Tokenizer,
    options: ModelOptions,
    max_tokens: int,
) -> PretrainedModel:
    """A randomly initialised model; max_tokens: of the longest input."""
    size = ModelSize(
        vocab_size=tokenizer.vocab_size,
        hidden_size=options.d_model,
        intermediate_size=options.d_ff,
        num_layers=options.num_layers,
        num_heads=options.num_heads,
        max_tokens=max_tokens,
        dropout=options.dropout,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model_class(model_class.config_class.from_size(size))
