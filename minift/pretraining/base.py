"""What the job of pre-training knows of a family: how its tokenizer is trained, how a new model is
made, what a chunk of text teaches it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from torch import Tensor

from minift.models.base import PretrainedModel
from minift.pretraining.vocabulary import SENTINELS
from minift.tasks.base import check_range, option
from minift.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelOptions:
    """The model, and how it learns; the defaults make a T5 of 9 million parameters."""

    family: Literal["t5", "bert"] = option("t5", "t5 learns to fill gaps, bert masked words.")
    vocab_size: int = option(8000, "Tokens; of T5's, 100 are the names of gaps.")
    d_model: int = option(256, "Width of the model.")
    d_ff: int = option(1024, "Width of the feed-forward layers.")
    num_layers: int = option(4, "Layers of the encoder, and of T5's decoder.")
    num_heads: int = option(4, "Heads of attention.")
    dropout: float = option(0.0, "Of the whole model; text that is seen once needs none.")
    sentences: float = option(
        0.5, "T5: share of the chunks that hide a sentence, as a summary, instead of gaps."
    )
    lead: float = option(0.0, "T5: share of the hidden sentences that are the first of their text.")
    whole: float = option(0.0, "T5: share of the gaps whose target is the whole text.")
    tokenizer_documents: int = option(20_000, "Documents that the tokenizer learns from.")

    def __post_init__(self) -> None:
        check_range(self, "vocab_size", SENTINELS + 10, 2**31)
        for name in ("d_model", "d_ff", "num_layers", "num_heads", "tokenizer_documents"):
            check_range(self, name, 1)
        check_range(self, "dropout", 0, 0.99)
        for name in ("sentences", "lead", "whole"):
            check_range(self, name, 0, 1)
        if self.d_model % self.num_heads:
            raise ValueError(
                f"--d-model is {self.d_model}, which --num-heads {self.num_heads} cannot share; "
                "give a multiple"
            )


class Objective(Protocol):
    """What a family learns from text without labels.

    end: id of the token that stands behind each document.
    optimizer, usual_rate: what the family learns with; see `train.optim.new_optimizer`.
    """

    end: int
    optimizer: ClassVar[str]
    usual_rate: ClassVar[float]

    def __init__(self, tokenizer: Tokenizer, options: ModelOptions): ...

    @staticmethod
    def make_tokenizer(documents: Iterable[str], vocab_size: int, folder: Path) -> None:
        """Train a tokenizer of the family's kind and write its files."""

    @staticmethod
    def new_model(tokenizer: Tokenizer, options: ModelOptions, longest: int) -> PretrainedModel:
        """A model as it starts; longest: the longest input that it must read."""

    @staticmethod
    def load_model(folder: Path, dropout: float) -> PretrainedModel:
        """The model of a checkpoint, to go on from."""

    def batch(self, chunks: np.ndarray, random: np.random.Generator) -> tuple[Tensor, ...]:
        """Chunks (B, R) of tokens with something hidden, as the model will read them."""

    @staticmethod
    def loss(model: Any, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses over what was hidden, and its count; the batch is on the device."""
