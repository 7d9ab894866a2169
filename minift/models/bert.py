"""BERT: token ids go in, one vector for each token comes out, a head turns them into logits.

Paper: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers".

Dimensions: B batch, T width of the padded batch, S real tokens in the batch, F texts that are not
empty, H hidden, N heads, D head width (H = N * D), I intermediate, V vocabulary, C classes.

One layer, post-norm (each norm follows the sum, on the main path):

    x ──┬──> query, key, value ──> attention ──> output ──> dropout ──(+)──> norm ───┐
        └──────────────────────────────────────────────────────────────┘             │
        ┌────────────────────────────────────────────────────────────────────────────┘
        ├──> up (H -> I) ──> GELU ──> down (I -> H) ──> dropout ──(+)──> norm ──> next layer
        └──────────────────────────────────────────────────────────┘

    ┌ Two ideas for speed shape the code ──────────────────────────────────────────────────────┐
    │ No padding. Callers pass (B, T) and get (B, T, ...) back. Between the embeddings and the │
    │ last layer only the real tokens of all texts exist, end to end: (S, H). `hidden_states`  │
    │ removes the padding, `Packing.pad` restores it (nn/packing.py).                          │
    │ Only what the head reads. A classifier reads the [CLS] token of the last layer, so that  │
    │ layer computes only the [CLS] rows: `cls_only`.                                          │
    └──────────────────────────────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minift.models.base import PretrainedConfig, PretrainedModel
from minift.models.heads import POOLINGS, Head
from minift.nn.attention import packed_attention
from minift.nn.layers import ACTIVATIONS, Dropout, init_linear
from minift.nn.packing import Packing, pack
from minift.options import require, require_number
from minift.weights import Checkpoint, WeightMap, weights_and_biases


@dataclass(frozen=True, kw_only=True)
class BertConfig(PretrainedConfig):
    """config.json of a BERT checkpoint; the defaults are those of BERT-base."""

    model_type = "bert"
    dropouts: ClassVar[Mapping[str, str]] = {
        "hidden": "hidden_dropout_prob",
        "attention": "attention_probs_dropout_prob",
        "head": "classifier_dropout",
    }
    supported_values: ClassVar[Mapping[str, Sequence[Any]]] = {
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        "pruned_heads": ({}, None),
    }

    vocab_size: int = 30522  # V
    hidden_size: int = 768  # H
    num_hidden_layers: int = 12
    num_attention_heads: int = 12  # N
    intermediate_size: int = 3072  # I
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512  # maximum number of tokens of a text
    type_vocab_size: int = 2  # first and second text of a pair
    pad_token_id: int | None = 0  # packing removes padding, so its embedding is never read
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None  # of the head; None: hidden_dropout_prob
    initializer_range: float = 0.02  # standard deviation of new weights
    pooling: str = "pooler"  # how a text becomes one vector, see models/heads.py

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "hidden_act", tuple(ACTIVATIONS))
        require(self, "pooling", POOLINGS)
        # Bounds far above any BERT, so that a damaged config is refused before it fills the memory.
        for name, high in {
            "vocab_size": 10**8,
            "hidden_size": 10**5,
            "num_attention_heads": 10**4,
            "intermediate_size": 10**6,
            "max_position_embeddings": 10**7,
            "type_vocab_size": 10**4,
        }.items():
            require_number(self, name, 1, high)
        require_number(self, "num_hidden_layers", 1, 10**3)
        for name in ("layer_norm_eps", "initializer_range", *self.dropouts.values()):
            if name != "classifier_dropout" or self.classifier_dropout is not None:
                require_number(self, name, 0, 1, float)
        if self.pad_token_id is not None:
            require_number(self, "pad_token_id", 0, self.vocab_size - 1)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}, which {self.num_attention_heads} heads "
                "(num_attention_heads) cannot share equally"
            )

    @property
    def head_dropout(self) -> float:
        own = self.classifier_dropout
        return self.hidden_dropout_prob if own is None else own


class BertEmbeddings(nn.Module):
    """norm(word + position + token type), then dropout: three (S,) of ids -> (S, H)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        x = self.word(input_ids) + self.position(position_ids)  # (S, H)
        return self.dropout(self.norm(x + self.token_type(token_type_ids)))  # (S, H)


class BertAttention(nn.Module):
    """Self-attention with its residual: (S, H) -> (S, H); with `cls_only` -> (F, H)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.fused = config.attn_implementation == "sdpa"
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.attention_dropout = config.attention_probs_dropout_prob
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, packing: Packing, cls_only: bool = False) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)  # (S, N, D) each
        if cls_only:
            # (F, ...), one row for each text from here on
            q, x = packing.cls_tokens(q), packing.cls_tokens(x)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = packed_attention(
            q, k, v, packing, dropout=dropout, fused=self.fused, cls_only=cls_only
        )  # (S, N, D)
        return self.norm(x + self.dropout(self.output(mixed.flatten(1))))  # (S, H)


class BertFeedForward(nn.Module):
    """Two linear layers with their residual: (S, H) -> (S, H)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.up(x))  # (S, I)
        return self.norm(x + self.dropout(self.down(inner)))  # (S, H)


class BertLayer(nn.Module):
    """The two residual blocks of the picture: (S, H) -> (S, H); with `cls_only` -> (F, H)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = BertAttention(config)
        self.feed_forward = BertFeedForward(config)

    def forward(self, x: Tensor, packing: Packing, cls_only: bool = False) -> Tensor:
        return self.feed_forward(self.attention(x, packing, cls_only))


class BertPretrained(PretrainedModel):
    """Base class of BERT's models: config, names on disk, initial weights of new layers."""

    config_class = BertConfig
    config: BertConfig
    embedding_modules = ("embeddings",)

    def make_head(self, dropout: float) -> Head:
        """A newly initialised linear head, a row for each label (two rows without labels)."""
        count = len(self.config.labels or ("LABEL_0", "LABEL_1"))
        return Head(self.config.hidden_size, count, dropout).apply(self.init_weights)

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


class BertModel(BertPretrained):
    """The encoder.

    model(input_ids (B, T), attention_mask=None (B, T), token_type_ids=None (B, T))
        -> hidden (B, T, H), pooled (B, H)

    hidden is zero at padding.  pooled is tanh(W h[CLS] + b), the pretrained pooler; None if the
    checkpoint has no pooler (for example after masked language modelling only).
    """

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler: nn.Linear | None = nn.Linear(config.hidden_size, config.hidden_size)
        self.apply(self.init_weights)

    def prepare_for(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        if "pooler.dense.weight" not in checkpoint:
            self.pooler = None
        return set()

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
        all.  Raises `ValueError` unless the ids have two dimensions and at most
        `max_position_embeddings` columns.
        """
        limit = self.config.max_position_embeddings
        if input_ids.dim() != 2 or input_ids.shape[1] > limit:
            raise ValueError(
                f"input_ids must be (batch, up to {limit} tokens), not {tuple(input_ids.shape)}"
            )
        packing = pack(torch.ones_like(input_ids) if attention_mask is None else attention_mask)
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = self.embeddings(packing.unpad(input_ids), packing.positions, packing.unpad(types))
        yield x, packing  # (S, H)
        for layer in self.layers[:num_layers]:
            x = layer(x, packing)  # (S, H)
            yield x, packing

    def pool(self, cls_hidden: Tensor) -> Tensor:
        """The pretrained pooler, tanh(W h[CLS] + b): (B, H) -> (B, H)."""
        return torch.tanh(self.pooler(cls_hidden))


class BertForSequenceClassification(BertPretrained):
    """One label for each text: (B, T) ids -> logits (B, C)."""

    head = "classifier"

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config)
        self.classifier = self.make_head(config.head_dropout)

    def prepare_for(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        if "pooler.dense.weight" not in checkpoint:
            # With this pooling the pooler is part of the head, so a new head has a new pooler.
            if self.config.pooling == "pooler":
                return {"bert.pooler"} if head_is_new else set()
            self.bert.pooler = None
        return set()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        return self.classifier(self.features(input_ids, attention_mask, token_type_ids))

    def features(self, *inputs: Tensor | None) -> Tensor:
        """The input of the head, one vector for each text (models/heads.py): (B, H)."""
        pooling = self.config.pooling
        if pooling == "mean":
            x, packing = self.bert.encode(*inputs)  # (S, H)
            return packing.unsort(packing.mean_pool(x))  # (B, H)
        x, packing = self.bert.encode_cls(*inputs)  # (F, H)
        cls_hidden = packing.unsort(x)  # (B, H)
        return self.bert.pool(cls_hidden) if pooling == "pooler" else cls_hidden


class BertTokenModel(BertPretrained):
    """The encoder without its pooler; subclasses add a head on every token."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config)
        self.bert.pooler = None

    def prepare_for(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        checkpoint.ignore(r"pooler\..*", "the pooler: a head on every token does not need it")
        return set()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        x, packing = self.bert.encode(input_ids, attention_mask, token_type_ids)  # (S, H)
        return packing.pad(self.get_submodule(self.head)(x))  # (B, T, C)

    def features(self, *inputs: Tensor | None) -> Tensor:
        """The input of the head, one vector for each token: (B, T, H)."""
        x, packing = self.bert.encode(*inputs)  # (S, H)
        return packing.pad(x)


class BertForTokenClassification(BertTokenModel):
    """One label for each token: (B, T) ids -> logits (B, T, C), unspecified at padding."""

    head = "classifier"

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.classifier = self.make_head(config.head_dropout)


class BertForQuestionAnswering(BertTokenModel):
    """An answer's span: (B, T) ids -> start and end logits, (B, T) each, unspecified at padding."""

    head = "qa_outputs"

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.qa_outputs = self.make_head(dropout=0.0)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return super().forward(input_ids, attention_mask, token_type_ids).unbind(-1)


LAYER = "encoder.layer.{i}"
SELF = f"{LAYER}.attention.self"

# Our name -> the name in a checkpoint, or several names whose tensors are stacked by rows.
BertPretrained.weight_map = WeightMap(
    prefix="bert.",
    names={
        "embeddings.word.weight": "embeddings.word_embeddings.weight",
        "embeddings.position.weight": "embeddings.position_embeddings.weight",
        "embeddings.token_type.weight": "embeddings.token_type_embeddings.weight",
        **weights_and_biases(
            {
                "embeddings.norm": "embeddings.LayerNorm",
                "layers.{i}.attention.qkv": (f"{SELF}.query", f"{SELF}.key", f"{SELF}.value"),
                "layers.{i}.attention.output": f"{LAYER}.attention.output.dense",
                "layers.{i}.attention.norm": f"{LAYER}.attention.output.LayerNorm",
                "layers.{i}.feed_forward.up": f"{LAYER}.intermediate.dense",
                "layers.{i}.feed_forward.down": f"{LAYER}.output.dense",
                "layers.{i}.feed_forward.norm": f"{LAYER}.output.LayerNorm",
                "pooler": "pooler.dense",
                "classifier": "classifier",
                "qa_outputs": "qa_outputs",
            }
        ),
    },
    ignored={
        r"embeddings\.position_ids": "a buffer that counts 0, 1, 2, ...",
        r"cls\.predictions\.(bias|(decoder|transform\.(dense|LayerNorm))\.(weight|bias))": (
            "the masked-language-model head of pre-training"
        ),
        r"cls\.seq_relationship\.(weight|bias)": "the next-sentence head of pre-training",
        r"classifier\.(weight|bias)": "the head of a task, which the bare encoder does not have",
        r"qa_outputs\.(weight|bias)": "the head of question answering",
    },
    aliases={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
)
