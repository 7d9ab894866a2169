"""Heads over any encoder: on whole texts, on each token, and on the span of an answer.

How a text becomes one vector is an explicit choice, because it decides what a head on a frozen
encoder can reach:

    pooler   the family's pooler, BERT: tanh(W h[CLS] + b), pretrained with the encoder
    cls      h[CLS]
    mean     the mean of h over the text's real tokens (Reimers and Gurevych 2019, Sentence-BERT)

A family derives one class from each and names its encoder; see the end of bert.py.

Dimensions: B batch, T width of the padded batch, S packed tokens, F texts that are not empty,
H hidden, C classes.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from minift.models.base import PretrainedModel
from minift.models.encoder import Encoder, EncoderConfig
from minift.nn.layers import Dropout
from minift.weights import Checkpoint, WeightMap, weights_and_biases

ENCODER = "encoder"  # the attribute that holds the encoder


class Head(nn.Linear):
    """Dropout, then one linear layer: (..., H) -> (..., C)."""

    quantizable = False  # nn/int8.py keeps it in float32

    def __init__(self, hidden_size: int, num_labels: int, dropout: float):
        super().__init__(hidden_size, num_labels)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(self.dropout(hidden))


class EncoderWithHead(PretrainedModel):
    """An encoder and a head.

    encoder_class: the family's encoder, which also says the config class, names on disk and LoRA's
        default targets.
    head_names: our names of the head's tensors -> those in a checkpoint.
    """

    encoder_class: ClassVar[type[Encoder]]
    head_names: ClassVar[Mapping[str, Any]]
    required: ClassVar[Sequence[str]] = ("encoder_class", "head_names")
    config: EncoderConfig

    def __init_subclass__(cls, **settings: Any):
        super().__init_subclass__(**settings)
        if hasattr(cls, "encoder_class"):
            cls.config_class = cls.encoder_class.config_class
            cls.default_target_modules = cls.encoder_class.default_target_modules

    def __init__(self, config: EncoderConfig):
        if missing := [name for name in self.required if not hasattr(self, name)]:
            raise TypeError(f"{type(self).__name__} does not say its {', '.join(missing)}")
        super().__init__(config)
        self.encoder = self.make_encoder()
        self.head = self.make_head()
        self.apply(self.init_weights)

    @classmethod
    @cache
    def weight_map(cls) -> WeightMap:
        return cls.encoder_class.weight_map().with_head(ENCODER, cls.head_names)

    @classmethod
    def head_fits(cls, folder: Path, config: EncoderConfig) -> bool:
        checkpoint = Checkpoint(folder, cls.weight_map())
        names_of = cls.weight_map().checkpoint_names
        if not all(name in checkpoint for ours in cls.head_names for name in names_of(ours)):
            return False
        (label_rows,) = names_of(cls.label_rows)
        return checkpoint.num_rows(label_rows) == len(config.labels or ())

    def make_encoder(self) -> Encoder:
        """The encoder, before its weights are initialised."""
        return self.encoder_class(self.config)

    @abstractmethod
    def make_head(self) -> nn.Module:
        """The head, before its weights are initialised."""

    @property
    def num_labels(self) -> int:
        """Rows of the head: one for each label, two without labels."""
        return len(self.config.labels or ("LABEL_0", "LABEL_1"))

    def prepare_for(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        return {f"{ENCODER}.{name}" for name in self.encoder.prepare_for(checkpoint, False)}

    def init_weights(self, module: nn.Module) -> None:
        self.encoder.init_weights(module)

    def embedding_modules(self) -> list[nn.Module]:
        return self.encoder.embedding_modules()

    def layer_stacks(self) -> list[nn.ModuleList]:
        return self.encoder.layer_stacks()


class EncoderForSequenceClassification(EncoderWithHead):
    """One label for each text: (B, T) ids -> logits (B, C)."""

    label_rows = "head.weight"
    head_names = weights_and_biases({"head": "classifier"})
    peft_task_type = "SEQ_CLS"

    def make_head(self) -> nn.Module:
        config = self.config
        return Head(config.hidden_size, self.num_labels, config.sequence_dropout)

    @property
    def unlike_transformers(self) -> str | None:
        own, theirs = self.config.pooling, self.config.poolings[0]
        return None if own == theirs else f"it has only the pooling {theirs!r}, not {own!r}"

    @classmethod
    def head_fits(cls, folder: Path, config: EncoderConfig) -> bool:
        # With the pooling "pooler" the pooler is part of the head.
        pooled = config.pooling != "pooler" or cls.has_pooler(folder)
        return pooled and super().head_fits(folder, config)

    @classmethod
    def has_pooler(cls, folder: Path) -> bool:
        """Whether a checkpoint has the weights of the family's pooler."""
        encoder = cls.encoder_class
        return encoder.has_pooler(Checkpoint(folder, encoder.weight_map()))

    def prepare_for(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        pooler = self.encoder.pooler
        new = super().prepare_for(checkpoint, head_is_new)
        if self.config.pooling == "pooler" and self.encoder.pooler is None:
            # With this pooling the pooler is part of the head, so a new head has a new pooler.
            self.encoder.pooler = pooler
            return {*new, f"{ENCODER}.pooler"} if head_is_new else new
        return new

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        return self.head(self.features(input_ids, attention_mask, token_type_ids))

    def features(self, *inputs: Tensor | None) -> Tensor:
        """The input of the head, one vector for each text: (B, H)."""
        pooling = self.config.pooling
        if pooling == "mean":
            x, packing = self.encoder.encode(*inputs)  # (S, H)
            return packing.unsort(packing.mean_pool(x))  # (B, H)
        x, packing = self.encoder.encode_cls(*inputs)  # (F, H)
        cls_hidden = packing.unsort(x)  # (B, H)
        return self.encoder.pool(cls_hidden) if pooling == "pooler" else cls_hidden


class EncoderWithTokenHead(EncoderWithHead):
    """The encoder without its pooler, and a head on every token."""

    def make_encoder(self) -> Encoder:
        encoder = super().make_encoder()
        encoder.pooler = None
        return encoder

    def prepare_for(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        for module in self.encoder.weight_map().modules_in_checkpoint("pooler"):
            checkpoint.ignore(
                rf"{re.escape(module)}\..*", "the pooler: a head on every token does not need it"
            )
        return super().prepare_for(checkpoint, head_is_new)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        x, packing = self.encoder.encode(input_ids, attention_mask, token_type_ids)  # (S, H)
        return packing.pad(self.logits(x))  # (B, T, C)

    def logits(self, x: Tensor) -> Tensor:
        """The head on hidden states: (..., H) -> (..., C)."""
        return self.head(x)

    def features(self, *inputs: Tensor | None) -> Tensor:
        """The input of the head, one vector for each token: (B, T, H)."""
        x, packing = self.encoder.encode(*inputs)  # (S, H)
        return packing.pad(x)


class EncoderForTokenClassification(EncoderWithTokenHead):
    """One label for each token: (B, T) ids -> logits (B, T, C), unspecified at padding."""

    label_rows = "head.weight"
    head_names = weights_and_biases({"head": "classifier"})
    peft_task_type = "TOKEN_CLS"

    def make_head(self) -> nn.Module:
        return Head(self.config.hidden_size, self.num_labels, self.config.token_dropout)


class EncoderForQuestionAnswering(EncoderWithTokenHead):
    """An answer's span: (B, T) ids -> start and end logits, (B, T) each, unspecified at padding."""

    label_rows = "head.weight"
    head_names = weights_and_biases({"head": "qa_outputs"})
    peft_task_type = "QUESTION_ANS"

    def make_head(self) -> nn.Module:
        return Head(self.config.hidden_size, self.num_labels, self.config.span_dropout)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return super().forward(input_ids, attention_mask, token_type_ids).unbind(-1)
