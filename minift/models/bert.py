"""BERT: token ids go in, one vector for each token comes out, a head makes logits of them.

Paper: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers".

Dimensions: B batch, T width of the padded batch, S real tokens in the batch, H hidden, N heads,
D head width (H = N * D), I intermediate, V vocabulary, C classes.

Callers pass (B, T) and get (B, T, ...) back, but between the embeddings and the last layer there
is no padding: the real tokens of all texts lie end to end, (S, H).  See nn/attention.py.

One layer, post-norm (the norm stands after the sum, on the main path):

    x ──┬──> query, key, value ──> attend ──> output ──> dropout ──(+)──> norm ──┐
        └───────────────────────────────────────────────────────────┘             │
        ┌─────────────────────────────────────────────────────────────────────────┘
        ├──> up (H -> I) ──> GELU ──> down (I -> H) ──> dropout ──(+)──> norm ──> next layer
        └───────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minift.models.base import PretrainedConfig, PretrainedModel, require, require_number
from minift.models.heads import POOLINGS, Head
from minift.nn.attention import Packing, attend, pack
from minift.nn.layers import ACTIVATIONS, Dropout, init_linear
from minift.weights import Checkpoint, NameTable


@dataclass(frozen=True, kw_only=True)
class BertConfig(PretrainedConfig):
    """config.json of a BERT checkpoint; the defaults are those of BERT-base."""

    model_type = "bert"
    dropouts: ClassVar[Mapping[str, str]] = {
        "hidden": "hidden_dropout_prob",
        "attention": "attention_probs_dropout_prob",
        "head": "classifier_dropout",
    }
    fixed: ClassVar[Mapping[str, Sequence[Any]]] = {
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
    max_position_embeddings: int = 512  # the longest text, special tokens included
    type_vocab_size: int = 2  # first and second text of a pair
    pad_token_id: int | None = 0  # its embedding starts at zero; packing keeps it out of sight
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None  # of the head; None: as hidden_dropout_prob
    initializer_range: float = 0.02  # standard deviation of new weights
    pooling: str = "pooler"  # how a text becomes one vector, see models/heads.py

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "hidden_act", tuple(ACTIVATIONS))
        require(self, "pooling", POOLINGS)
        # Bounds far above any BERT: a damaged config is refused instead of filling the memory.
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
        for name in ("layer_norm_eps", "initializer_range"):
            require_number(self, name, 0, 1, float)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            require_number(self, name, 0, 1, float)
        if self.classifier_dropout is not None:
            require_number(self, "classifier_dropout", 0, 1, float)
        if self.pad_token_id is not None:
            require_number(self, "pad_token_id", 0, self.vocab_size - 1)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}, which {self.num_attention_heads} heads "
                "(num_attention_heads) cannot share equally"
            )

    @property
    def head_dropout(self) -> float:
        custom = self.classifier_dropout
        return self.hidden_dropout_prob if custom is None else custom


class BertEmbeddings(nn.Module):
    """word + position + token type, normed: packed ids (S,) -> (S, H)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Tensor, positions: Tensor, types: Tensor) -> Tensor:
        x = self.word(ids) + self.position(positions) + self.token_type(types)  # (S, H)
        return self.dropout(self.norm(x))


class BertAttention(nn.Module):
    """Self-attention with its residual: (S, H) -> (S, H), or (F, H) of `firsts`."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.fused = config.attn_implementation == "sdpa"
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.weight_dropout = config.attention_probs_dropout_prob
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, packing: Packing, firsts: bool = False) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)  # (S, N, D) each
        if firsts:
            q, x = packing.firsts(q), packing.firsts(x)  # S is F from here on
        dropout = self.weight_dropout if self.training else 0.0
        mixed = attend(
            q, k, v, packing, dropout=dropout, fused=self.fused, firsts=firsts
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
        wide = self.activation(self.up(x))  # (S, I)
        return self.norm(x + self.dropout(self.down(wide)))  # (S, H)


class BertLayer(nn.Module):
    """The two residual blocks of the picture above; of `firsts`, for the first tokens alone."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = BertAttention(config)
        self.feed_forward = BertFeedForward(config)

    def forward(self, x: Tensor, packing: Packing, firsts: bool = False) -> Tensor:
        return self.feed_forward(self.attention(x, packing, firsts))


class BertPretrained(PretrainedModel):
    """What BERT's models share: config, names on disk, how a new layer starts."""

    config_class = BertConfig
    config: BertConfig
    bottom = ("embeddings",)

    def new_head(self, dropout: float) -> Head:
        """A linear head as it starts, with a row for each label (two if nobody named any)."""
        count = len(self.config.labels or ("LABEL_0", "LABEL_1"))
        return Head(self.config.hidden_size, count, dropout).apply(self.init_weights)

    def init_weights(self, module: nn.Module) -> None:
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

    hidden is zero at padding.  pooled is tanh(W h[CLS] + b) with the pretrained pooler, and None
    where the checkpoint has no pooler (one trained on masked words alone, say).
    """

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler: nn.Linear | None = nn.Linear(config.hidden_size, config.hidden_size)
        self.apply(self.init_weights)

    def adapt(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        if "pooler.dense.weight" not in checkpoint:
            self.pooler = None
        return set()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        x, packing = self.encode(input_ids, attention_mask, token_type_ids)
        first = packing.rows(packing.firsts(x))  # (B, H)
        return packing.pad(x), None if self.pooler is None else self.pool(first)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Packing]:
        """The last hidden states, still packed: (S, H) and where its tokens belong."""
        *_, last = self.hidden_states(input_ids, attention_mask, token_type_ids)
        return last

    def encode_firsts(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Packing]:
        """The last hidden state of each text's first token alone: (F, H), and where they belong.

        What the last layer makes of the other tokens nobody reads, so it is not computed: of that
        layer only keys, values and queries are, which with six layers spares an eighth of it all.
        """
        *_, (x, packing) = self.hidden_states(
            input_ids, attention_mask, token_type_ids, layers=len(self.layers) - 1
        )
        return self.layers[-1](x, packing, firsts=True), packing

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        layers: int | None = None,
    ) -> Iterator[tuple[Tensor, Packing]]:
        """The packed hidden states after the embeddings and after each layer, one by one; of the
        lowest `layers` where there is a number."""
        limit = self.config.max_position_embeddings
        if input_ids.dim() != 2 or input_ids.shape[1] > limit:
            raise ValueError(
                f"input_ids must be (batch, up to {limit} tokens), not {tuple(input_ids.shape)}"
            )
        packing = pack(torch.ones_like(input_ids) if attention_mask is None else attention_mask)
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = self.embeddings(packing.take(input_ids), packing.columns, packing.take(types))  # (S, H)
        yield x, packing
        for layer in self.layers[:layers]:
            x = layer(x, packing)  # (S, H)
            yield x, packing

    def pool(self, first: Tensor) -> Tensor:
        """The pretrained pooler: (B, H) -> (B, H)."""
        return torch.tanh(self.pooler(first))


class BertForSequenceClassification(BertPretrained):
    """One label for each text: (B, T) ids -> logits (B, C)."""

    head = "classifier"

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config)
        self.classifier = self.new_head(config.head_dropout)

    def adapt(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        if "pooler.dense.weight" in checkpoint:
            return set()
        if self.config.pooling != "pooler":
            self.bert.pooler = None
            return set()
        # The pooler is a part of this head, so a new head may bring a new one along.
        return {"bert.pooler"} if head_is_new else set()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        return self.classifier(self.features(input_ids, attention_mask, token_type_ids))

    def features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """What the head sees of each text, as models/heads.py explains: (B, H)."""
        inputs, pooling = (input_ids, attention_mask, token_type_ids), self.config.pooling
        if pooling == "mean":
            x, packing = self.bert.encode(*inputs)  # (S, H)
            return packing.rows(packing.means(x))
        x, packing = self.bert.encode_firsts(*inputs)  # (F, H)
        first = packing.rows(x)  # (B, H)
        return self.bert.pool(first) if pooling == "pooler" else first


class BertTokenHead(BertPretrained):
    """The encoder without its pooler; subclasses put a linear head on every token."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config)
        self.bert.pooler = None

    def adapt(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        checkpoint.leave_aside(r"pooler\..*", "the pooler: a head on every token does not need it")
        return set()

    def features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """What the head sees of each token: (B, T, H)."""
        x, packing = self.bert.encode(input_ids, attention_mask, token_type_ids)
        return packing.pad(x)

    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """What the head says of each token: (B, T, C), unspecified at padding."""
        x, packing = self.bert.encode(input_ids, attention_mask, token_type_ids)
        return packing.pad(self.get_submodule(self.head)(x))


class BertForTokenClassification(BertTokenHead):
    """One label for each token: (B, T) ids -> logits (B, T, C), unspecified at padding."""

    head = "classifier"

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.classifier = self.new_head(config.head_dropout)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        return self.logits(input_ids, attention_mask, token_type_ids)


class BertForQuestionAnswering(BertTokenHead):
    """Where an answer begins and ends: (B, T) ids -> start logits, end logits, (B, T) each.

    Unspecified at padding.  The two rows of the head are its two "labels".
    """

    head = "qa_outputs"

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.qa_outputs = self.new_head(dropout=0.0)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return self.logits(input_ids, attention_mask, token_type_ids).unbind(-1)


LAYER = "encoder.layer.{i}"
ATTENTION = f"{LAYER}.attention"

# Our name -> theirs.  Three of theirs, stacked by rows, make one of ours.
BertPretrained.table = NameTable(
    prefix="bert.",
    names={
        "embeddings.word.weight": "embeddings.word_embeddings.weight",
        "embeddings.position.weight": "embeddings.position_embeddings.weight",
        "embeddings.token_type.weight": "embeddings.token_type_embeddings.weight",
        "embeddings.norm.weight": "embeddings.LayerNorm.weight",
        "embeddings.norm.bias": "embeddings.LayerNorm.bias",
        "layers.{i}.attention.qkv.weight": (
            f"{ATTENTION}.self.query.weight",
            f"{ATTENTION}.self.key.weight",
            f"{ATTENTION}.self.value.weight",
        ),
        "layers.{i}.attention.qkv.bias": (
            f"{ATTENTION}.self.query.bias",
            f"{ATTENTION}.self.key.bias",
            f"{ATTENTION}.self.value.bias",
        ),
        "layers.{i}.attention.output.weight": f"{ATTENTION}.output.dense.weight",
        "layers.{i}.attention.output.bias": f"{ATTENTION}.output.dense.bias",
        "layers.{i}.attention.norm.weight": f"{ATTENTION}.output.LayerNorm.weight",
        "layers.{i}.attention.norm.bias": f"{ATTENTION}.output.LayerNorm.bias",
        "layers.{i}.feed_forward.up.weight": f"{LAYER}.intermediate.dense.weight",
        "layers.{i}.feed_forward.up.bias": f"{LAYER}.intermediate.dense.bias",
        "layers.{i}.feed_forward.down.weight": f"{LAYER}.output.dense.weight",
        "layers.{i}.feed_forward.down.bias": f"{LAYER}.output.dense.bias",
        "layers.{i}.feed_forward.norm.weight": f"{LAYER}.output.LayerNorm.weight",
        "layers.{i}.feed_forward.norm.bias": f"{LAYER}.output.LayerNorm.bias",
        "pooler.weight": "pooler.dense.weight",
        "pooler.bias": "pooler.dense.bias",
        "classifier.weight": "classifier.weight",
        "classifier.bias": "classifier.bias",
        "qa_outputs.weight": "qa_outputs.weight",
        "qa_outputs.bias": "qa_outputs.bias",
    },
    ignored={
        r"embeddings\.position_ids": "a buffer that counts 0, 1, 2, ...",
        r"cls\.predictions\.(bias|decoder\.(weight|bias))": "the masked-word head of pre-training",
        r"cls\.predictions\.transform\.(dense|LayerNorm)\.(weight|bias)": (
            "the masked-word head of pre-training"
        ),
        r"cls\.seq_relationship\.(weight|bias)": "the next-sentence head of pre-training",
        r"classifier\.(weight|bias)": "the head of a task, which the bare encoder does not have",
        r"qa_outputs\.(weight|bias)": "the head of question answering",
    },
    spellings={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
)
