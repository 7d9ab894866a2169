"""The base class of encoders: embeddings, layers on packed tokens, and what a head reads.

    ids (B, T) ──> unpad ──> embeddings ──> layers ──> hidden (S, H) ──> pad ──> (B, T, H)
                                              └──> the [CLS] rows (F, H) ──> pooler (B, H)

A family defines its config, embeddings and layers (see `BertModel` in bert.py), and says by them
how positions are counted, whether texts have token types, and whether there is a pooler.

Dimensions: B batch, T width of the padded batch, S real tokens in the batch, F texts that are not
empty, H hidden.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from minift.models.base import PretrainedModel
from minift.models.config import ModelSize, PretrainedConfig
from minift.nn.layers import ACTIVATIONS, init_linear
from minift.nn.packing import Packing, pack
from minift.options import bounded, require, require_number
from minift.weights import Checkpoint

EncoderConfigType = TypeVar("EncoderConfigType", bound="EncoderConfig")

POOLINGS = ("pooler", "cls", "mean")  # how a text becomes one vector, see models/heads.py


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(PretrainedConfig):
    """The fields of config.json that encoders share; the defaults are those of BERT-base."""

    poolings: ClassVar[Sequence[str]] = POOLINGS  # of the family; that of `transformers` first
    dropouts: ClassVar[Sequence[str]] = ("hidden_dropout_prob", "attention_probs_dropout_prob")

    vocab_size: int = bounded(30522, 1, 10**8)  # V
    hidden_size: int = bounded(768, 1, 10**5)  # H
    num_hidden_layers: int = bounded(12, 1, 128)
    num_attention_heads: int = bounded(12, 1, 10**4)  # N
    intermediate_size: int = bounded(3072, 1, 10**6)  # I
    hidden_act: Literal[tuple(ACTIVATIONS)] = "gelu"
    max_position_embeddings: int = bounded(512, 1, 10**7)
    pad_token_id: int | None = 0  # packing removes padding, so its embedding is never read
    layer_norm_eps: float = bounded(1e-12, 0, 1)
    hidden_dropout_prob: float = bounded(0.1, 0, 1)
    attention_probs_dropout_prob: float = bounded(0.1, 0, 1)
    initializer_range: float = bounded(0.02, 0, 1)  # standard deviation of new weights
    pooling: str = "pooler"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "pooling", self.poolings)
        if self.pad_token_id is not None:
            require_number(self, "pad_token_id", 0, self.vocab_size - 1)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}, which {self.num_attention_heads} heads "
                "(num_attention_heads) cannot share equally"
            )

    @classmethod
    def from_size(cls: type[EncoderConfigType], size: ModelSize) -> EncoderConfigType:
        return cls(
            vocab_size=size.vocab_size,
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_hidden_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            max_position_embeddings=max(512, size.max_tokens),
            hidden_dropout_prob=size.dropout,
            attention_probs_dropout_prob=size.dropout,
            pad_token_id=size.pad_token_id,
        )

    @property
    def max_tokens(self) -> int:
        return self.max_position_embeddings

    @property
    def sequence_dropout(self) -> float:
        """Dropout in the head on whole texts."""
        return self.hidden_dropout_prob

    @property
    def token_dropout(self) -> float:
        """Dropout in the head on each token."""
        return self.sequence_dropout

    @property
    def span_dropout(self) -> float:
        """Dropout in the head of question answering: none, as in BERT, whatever --dropout is."""
        return 0.0


class Encoder(PretrainedModel):
    """An encoder.  A family sets `embeddings`, `layers` and `pooler` and defines three methods.

    model(input_ids (B, T), attention_mask=None (B, T), token_type_ids=None (B, T))
        -> hidden (B, T, H), pooled (B, H)

    hidden is zero at padding.  pooled is the pooler's output; None without a pooler.

    layers: each is called as layer(x (S, H), packing) -> (S, H), and as
        layer(x, packing, cls_only=True) -> (F, H), which computes only the [CLS] rows.
    pooler: one linear layer, which `pool` applies; None: the family, or the checkpoint, has none.
    """

    config_class: ClassVar[type[EncoderConfig]]
    config: EncoderConfig
    embeddings: nn.Module
    layers: nn.ModuleList
    pooler: nn.Linear | None

    @abstractmethod
    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None, packing: Packing) -> Tensor:
        """The embeddings of the real tokens: (B, T) ids -> (S, H)."""

    def pool(self, cls_hidden: Tensor) -> Tensor:
        """The pretrained pooler: (B, H) -> (B, H).  Families with a pooler define it."""
        raise NotImplementedError(f"{type(self).__name__} has no pooler")

    def __init_subclass__(cls, **settings: Any):
        super().__init_subclass__(**settings)
        if not hasattr(cls, "config_class"):
            raise TypeError(f"{cls.__name__} does not say its config_class")
        if "pooler" in cls.config_class.poolings and cls.pool is Encoder.pool:
            raise TypeError(f"{cls.__name__} says that it has a pooler, but defines no pool()")

    @property
    @abstractmethod
    def output_embedding(self) -> nn.Embedding:
        """The word embeddings (V, H), which are also the output layer of a masked-LM head."""

    def embedding_modules(self) -> list[nn.Module]:
        return [self.embeddings]

    def layer_stacks(self) -> list[nn.ModuleList]:
        return [self.layers]

    def init_weights(self, module: nn.Module) -> None:
        """Normal weights with standard deviation `initializer_range`; biases 0, norms 1."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init_linear(module, std)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def prepare_for(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        # The weights may lack a pooler, for example after masked language modelling only.
        if not self.has_pooler(checkpoint):
            self.pooler = None
        return set()

    @classmethod
    def has_pooler(cls, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint has the weights of the family's pooler."""
        modules = cls.weight_map().modules_in_checkpoint("pooler")
        return any(f"{module}.weight" in checkpoint for module in modules)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        x, packing = self.encode(input_ids, attention_mask, token_type_ids)  # (S, H)
        cls_hidden = packing.unsort(packing.cls_tokens(x))  # (B, H)
        return packing.pad(x), None if self.pooler is None else self.pool(cls_hidden)

    def encode(self, *inputs: Tensor | None) -> tuple[Tensor, Packing]:
        """The last hidden states, packed: (S, H), and their packing.  inputs: as for `forward`."""
        *_, last = self.hidden_states(*inputs)
        return last

    def encode_cls(self, *inputs: Tensor | None) -> tuple[Tensor, Packing]:
        """The last hidden state of each text's [CLS] token: (F, H), and the packing.

        The last layer computes only the [CLS] rows, because the head reads nothing else; the other
        tokens need only the qkv projection.  With six layers this saves an eighth of the time.
        """
        *_, (x, packing) = self.hidden_states(*inputs, num_layers=len(self.layers) - 1)
        return self.layers[-1](x, packing, cls_only=True), packing

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        num_layers: int | None = None,
    ) -> Iterator[tuple[Tensor, Packing]]:
        """Yield the hidden states and their packing, after the embeddings and after each layer.

        The hidden states are (S, H).  num_layers: run only this many of the lowest layers; None:
        all.  Raises `ValueError` unless the ids have two dimensions and at most `max_tokens`
        columns.
        """
        limit = self.config.max_tokens
        if input_ids.dim() != 2 or input_ids.shape[1] > limit:
            raise ValueError(
                f"input_ids must be (batch, up to {limit} tokens), not {tuple(input_ids.shape)}"
            )
        packing = pack(torch.ones_like(input_ids) if attention_mask is None else attention_mask)
        x = self.embed(input_ids, token_type_ids, packing)
        yield x, packing  # (S, H)
        for layer in self.layers[:num_layers]:
            x = layer(x, packing)  # (S, H)
            yield x, packing
