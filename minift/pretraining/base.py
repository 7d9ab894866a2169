"""The interface between the pre-training run and a model family: `ModelOptions` and `Objective`.

An objective trains the family's tokenizer, creates or loads the model, and turns blocks of text
into training batches.

Dimensions: B batch, R tokens of a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from torch import Tensor

from minift.models.base import PretrainedModel
from minift.options import check_range, option
from minift.pretraining.vocabulary import SENTINELS
from minift.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelOptions:
    """Size and objective of the model; the defaults make a T5 of 9 million parameters."""

    family: Literal["t5", "bert"] = option(
        "t5", "t5: span corruption; bert: masked language modelling.", common=True
    )
    vocab_size: int = option(
        8000, "Tokens of the vocabulary; 100 of T5's are sentinels.", common=True
    )
    d_model: int = option(256, "Hidden size.", common=True)
    d_ff: int = option(1024, "Size of the feed-forward layers.")
    num_layers: int = option(4, "Layers of the encoder, and of T5's decoder.", common=True)
    num_heads: int = option(4, "Attention heads.")
    dropout: float = option(0.0, "Dropout in pre-training; text seen once needs none; 0: off.")
    gap_sentence_ratio: float = option(
        0.5,
        "T5: share of the blocks that hide a whole sentence (PEGASUS) instead of spans; 0: off.",
    )
    lead_ratio: float = option(
        0.0, "T5: share of the hidden sentences that are the first of their block; 0: off."
    )
    full_text_ratio: float = option(
        0.0, "T5: share of the corrupted blocks whose target is the full text (BART); 0: off."
    )
    tokenizer_documents: int = option(20_000, "Documents to train the tokenizer on.")

    def __post_init__(self) -> None:
        check_range(self, "vocab_size", SENTINELS + 10, 2**31)
        for name in ("d_model", "d_ff", "num_layers", "num_heads", "tokenizer_documents"):
            check_range(self, name, 1)
        check_range(self, "dropout", 0, 0.99)
        for name in ("gap_sentence_ratio", "lead_ratio", "full_text_ratio"):
            check_range(self, name, 0, 1)
        if self.d_model % self.num_heads:
            raise ValueError(
                f"--d-model is {self.d_model}, which is no multiple of --num-heads "
                f"{self.num_heads}; give a multiple"
            )


class Objective(Protocol):
    """The pre-training objective of a model family.

    end_token_id: the token written after each document.
    optimizer, default_learning_rate: the family's defaults; see `training.optim.make_optimizer`.
    """

    end_token_id: int
    optimizer: ClassVar[str]
    default_learning_rate: ClassVar[float]

    def __init__(self, tokenizer: Tokenizer, options: ModelOptions): ...

    @staticmethod
    def make_tokenizer(documents: Iterable[str], vocab_size: int, folder: Path) -> None:
        """Train a tokenizer of the family's kind and write its files."""

    @staticmethod
    def new_model(tokenizer: Tokenizer, options: ModelOptions, max_length: int) -> PretrainedModel:
        """A randomly initialised model; max_length: tokens of the longest input."""

    @staticmethod
    def load_model(folder: Path, dropout: float) -> PretrainedModel:
        """The model of a checkpoint whose pre-training continues."""

    def batch(self, blocks: np.ndarray, random: np.random.Generator) -> tuple[Tensor, ...]:
        """Corrupt blocks (B, R) of tokens; returns the tensors that `loss` takes."""

    @staticmethod
    def loss(model: Any, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses of the predicted tokens, and their number; batch: on the device."""
