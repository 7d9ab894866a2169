"""DistilBERT: a BERT with half the layers, trained to imitate BERT's outputs.

Paper: Sanh et al. 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and
lighter".

Dimensions: B batch, T width of the padded batch, S real tokens in the batch, F texts that are not
empty, H hidden, C classes.

Its layers are those of bert.py, without dropout after the attention's output layer:

    x ──┬──> query, key, value ──> attention ──> output ──(+)──> norm ───┐
        └──────────────────────────────────────────────────┘             │
        ┌────────────────────────────────────────────────────────────────┘
        ├──> up (H -> I) ──> GELU ──> down (I -> H) ──> dropout ──(+)──> norm ──> next layer
        └──────────────────────────────────────────────────────────┘

It has no token types, so both texts of a pair look alike, and no pooler.  Its classifier has a
layer of its own instead, on the [CLS] vector (or on the mean):

    h[CLS] ──> dense ──> ReLU ──> dropout ──> output (H -> C) ──> logits
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minift.models.bert import BertLayer
from minift.models.encoder import Encoder, EncoderConfig
from minift.models.heads import (
    EncoderForQuestionAnswering,
    EncoderForSequenceClassification,
    EncoderForTokenClassification,
    Head,
)
from minift.models.masked_lm import EncoderForMaskedLM
from minift.nn.layers import Dropout
from minift.nn.packing import Packing
from minift.options import bounded
from minift.weights import WeightMap, weights_and_biases


@dataclass(frozen=True, kw_only=True)
class DistilBertConfig(EncoderConfig):
    """config.json of a DistilBERT checkpoint; the defaults are those of distilbert-base."""

    model_type = "distilbert"
    disk_names: ClassVar[Mapping[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    }
    dropouts: ClassVar[Sequence[str]] = (
        *EncoderConfig.dropouts,
        "seq_classif_dropout",
        "qa_dropout",
    )
    poolings: ClassVar[Sequence[str]] = ("cls", "mean")
    supported_values: ClassVar[Mapping[str, Sequence[Any]]] = {"pruned_heads": ({}, None)}

    num_hidden_layers: int = bounded(6, 1, 128)
    pooling: str = "cls"
    sinusoidal_pos_embds: bool = False  # new position embeddings are sines and cosines
    seq_classif_dropout: float = bounded(0.2, 0, 1)  # in the head on whole texts
    qa_dropout: float = bounded(0.1, 0, 1)  # in the head of question answering

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layer_norm_eps", 1e-12)  # fixed, whatever config.json says

    @property
    def sequence_dropout(self) -> float:
        return self.seq_classif_dropout

    @property
    def token_dropout(self) -> float:
        return self.hidden_dropout_prob

    @property
    def span_dropout(self) -> float:
        return self.qa_dropout


class DistilBertEmbeddings(nn.Module):
    """norm(word + position), then dropout: two (S,) of ids -> (S, H)."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        x = self.word(input_ids) + self.position(position_ids)  # (S, H)
        return self.dropout(self.norm(x))


def sinusoids(length: int, hidden_size: int) -> Tensor:
    """Position embeddings (length, H): sin and cos of position / 10000 ** (2 i / H), in turn.

    Vaswani et al. 2017, "Attention is all you need".  Position 1 with H = 4 has the angles
    1 / 10000 ** 0 = 1 and 1 / 10000 ** 0.5 = 0.01:

    >>> sinusoids(2, 4)[1]
    tensor([0.8415, 0.5403, 0.0100, 0.9999])
    """
    positions = torch.arange(length, dtype=torch.float64)[:, None]
    steps = torch.arange(0, hidden_size, 2, dtype=torch.float64) / hidden_size
    angles = positions * torch.exp(-math.log(10_000) * steps)  # (length, H / 2, rounded up)
    pairs = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)  # (length, H or H + 1)
    return pairs[:, :hidden_size].float()


class DistilBertLayer(BertLayer):
    """BERT's layer without dropout after the attention's output layer."""

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.attention.dropout = Dropout(0.0)


class DistilBertModel(Encoder):
    """The encoder; see `Encoder` for the call.  Token types are ignored, pooled is None."""

    config_class = DistilBertConfig
    config: DistilBertConfig
    default_target_modules = ("q_lin", "v_lin")

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.embeddings = DistilBertEmbeddings(config)
        self.layers = nn.ModuleList(
            DistilBertLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.pooler = None
        self.apply(self.init_weights)

    @classmethod
    def weight_map(cls) -> WeightMap:
        return WEIGHT_MAP

    @property
    def output_embedding(self) -> nn.Embedding:
        return self.embeddings.word

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None, packing: Packing) -> Tensor:
        return self.embeddings(packing.unpad(input_ids), packing.positions)  # (S, H)

    @torch.no_grad()
    def init_weights(self, module: nn.Module) -> None:
        super().init_weights(module)
        if isinstance(module, DistilBertEmbeddings) and self.config.sinusoidal_pos_embds:
            weight = module.position.weight
            weight.copy_(sinusoids(*weight.shape))


class DistilBertHead(nn.Module):
    """dense, ReLU, dropout, output: (..., H) -> (..., C)."""

    def __init__(self, config: DistilBertConfig, num_labels: int):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = Head(config.hidden_size, num_labels, config.sequence_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.dense(x).relu())


class DistilBertForSequenceClassification(EncoderForSequenceClassification):
    encoder_class = DistilBertModel
    label_rows = "head.output.weight"
    head_names = weights_and_biases({"head.dense": "pre_classifier", "head.output": "classifier"})

    def make_head(self) -> nn.Module:
        return DistilBertHead(self.config, self.num_labels)


class DistilBertForTokenClassification(EncoderForTokenClassification):
    encoder_class = DistilBertModel


class DistilBertForQuestionAnswering(EncoderForQuestionAnswering):
    encoder_class = DistilBertModel


class DistilBertForMaskedLM(EncoderForMaskedLM):
    encoder_class = DistilBertModel
    head_names: ClassVar[Mapping[str, str]] = {
        **weights_and_biases({"head.dense": "vocab_transform", "head.norm": "vocab_layer_norm"}),
        "head.bias": "vocab_projector.bias",
    }
    tied_names: ClassVar[Mapping[str, str]] = {
        "vocab_projector.weight": "encoder.embeddings.word.weight"
    }


LAYER = "transformer.layer.{i}"
SELF = f"{LAYER}.attention"

# Our name -> the name in a checkpoint, or several names whose tensors are stacked by rows.
WEIGHT_MAP = WeightMap(
    prefix="distilbert.",
    names={
        "embeddings.word.weight": "embeddings.word_embeddings.weight",
        "embeddings.position.weight": "embeddings.position_embeddings.weight",
        **weights_and_biases(
            {
                "embeddings.norm": "embeddings.LayerNorm",
                "layers.{i}.attention.qkv": (f"{SELF}.q_lin", f"{SELF}.k_lin", f"{SELF}.v_lin"),
                "layers.{i}.attention.output": f"{SELF}.out_lin",
                "layers.{i}.attention.norm": f"{LAYER}.sa_layer_norm",
                "layers.{i}.feed_forward.up": f"{LAYER}.ffn.lin1",
                "layers.{i}.feed_forward.down": f"{LAYER}.ffn.lin2",
                "layers.{i}.feed_forward.norm": f"{LAYER}.output_layer_norm",
            }
        ),
    },
    ignored={
        r"embeddings\.position_ids": "a buffer that counts 0, 1, 2, ...",
        r"vocab_(transform|layer_norm|projector)\.(weight|bias)": (
            "the masked-language-model head of pre-training"
        ),
        r"(pre_)?classifier\.(weight|bias)": "the head of a task, which this model does not have",
        r"qa_outputs\.(weight|bias)": "the head of question answering",
    },
)
