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
    │ last layer only the real tokens of all texts exist, end to end: (S, H). `embed` removes  │
    │ the padding, `Packing.pad` restores it (nn/packing.py).                                  │
    │ Only what the head reads. A classifier reads the [CLS] token of the last layer, so that  │
    │ layer computes only the [CLS] rows: `cls_only`.                                          │
    └──────────────────────────────────────────────────────────────────────────────────────────┘

encoder.py runs the layers one after the other, for every family; heads.py holds the heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minift.models.encoder import Encoder, EncoderConfig
from minift.models.heads import (
    EncoderForQuestionAnswering,
    EncoderForSequenceClassification,
    EncoderForTokenClassification,
)
from minift.models.masked_lm import EncoderForMaskedLM
from minift.nn.attention import packed_attention
from minift.nn.layers import ACTIVATIONS, Dropout
from minift.nn.packing import Packing
from minift.options import bounded
from minift.weights import WeightMap, weights_and_biases


@dataclass(frozen=True, kw_only=True)
class BertConfig(EncoderConfig):
    """config.json of a BERT checkpoint: the fields of `EncoderConfig`, and these."""

    model_type = "bert"
    dropouts: ClassVar[Sequence[str]] = (*EncoderConfig.dropouts, "classifier_dropout")
    supported_values: ClassVar[Mapping[str, Sequence[Any]]] = {
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        "pruned_heads": ({}, None),
    }

    type_vocab_size: int = bounded(2, 1, 10**4)  # first and second text of a pair
    # Of the head; None: hidden_dropout_prob.
    classifier_dropout: float | None = bounded(None, 0, 1)

    @property
    def sequence_dropout(self) -> float:
        own = self.classifier_dropout
        return self.hidden_dropout_prob if own is None else own

    @property
    def has_token_types(self) -> bool:
        return self.type_vocab_size > 1


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

    def __init__(self, config: EncoderConfig):
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

    def __init__(self, config: EncoderConfig):
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

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.attention = BertAttention(config)
        self.feed_forward = BertFeedForward(config)

    def forward(self, x: Tensor, packing: Packing, cls_only: bool = False) -> Tensor:
        return self.feed_forward(self.attention(x, packing, cls_only))


class BertModel(Encoder):
    """The encoder; see `Encoder` for the call.

    pooled is tanh(W h[CLS] + b), the pretrained pooler.
    """

    config_class = BertConfig
    config: BertConfig
    default_target_modules = ("query", "value")

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.apply(self.init_weights)

    @classmethod
    def weight_map(cls) -> WeightMap:
        return WEIGHT_MAP

    @property
    def output_embedding(self) -> nn.Embedding:
        return self.embeddings.word

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None, packing: Packing) -> Tensor:
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        ids, types = packing.unpad(input_ids), packing.unpad(types)  # (S,) each
        return self.embeddings(ids, packing.positions, types)  # (S, H)

    def pool(self, cls_hidden: Tensor) -> Tensor:
        return torch.tanh(self.pooler(cls_hidden))  # (B, H)


class BertForSequenceClassification(EncoderForSequenceClassification):
    encoder_class = BertModel


class BertForTokenClassification(EncoderForTokenClassification):
    encoder_class = BertModel


class BertForQuestionAnswering(EncoderForQuestionAnswering):
    encoder_class = BertModel


class BertForMaskedLM(EncoderForMaskedLM):
    encoder_class = BertModel
    head_names: ClassVar[Mapping[str, str]] = {
        **weights_and_biases(
            {
                "head.dense": "cls.predictions.transform.dense",
                "head.norm": "cls.predictions.transform.LayerNorm",
            }
        ),
        "head.bias": "cls.predictions.bias",
    }
    tied_names: ClassVar[Mapping[str, str]] = {
        "cls.predictions.decoder.weight": "encoder.embeddings.word.weight",
        "cls.predictions.decoder.bias": "head.bias",
    }


LAYER = "encoder.layer.{i}"
SELF = f"{LAYER}.attention.self"

# Our name -> the name in a checkpoint, or several names whose tensors are stacked by rows.
WEIGHT_MAP = WeightMap(
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
