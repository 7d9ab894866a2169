"""T5's config and the layers of its encoder and decoder.

Dimensions: as in t5.py; R rows of the decoder in generation, n new tokens of a row in one step.

One layer, pre-norm (each norm precedes its block, off the main path).  The decoder has
cross-attention between the two blocks.  Dropout applies to the attention weights, after the
activation, and after the last projection of each block:

    x ──┬──────────────────────────────────────────────(+)──┬──────────────────────────(+)── ...
        └─> norm ──> q, k, v ──> attention ──> output ──┘   └─> norm ──> feed-forward ──┘

    encoder   self-attention to all tokens of the source      relative bias, bidirectional
    decoder   causal self-attention to the target so far      relative bias, unidirectional
              cross-attention to the encoder's output         no bias

The relative position bias is T5's only position information: a number for each head and bucket of
distances, added to the scores (nn/positions.py).  Scores are not divided by sqrt(D); the queries'
initial weights are smaller instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from minift.generation.cache import LayerCache
from minift.models.config import ModelSize
from minift.models.seq2seq import DecoderLayer, Seq2SeqConfig
from minift.nn.attention import attention, packed_attention
from minift.nn.layers import ACTIVATIONS, Dropout, FeedForward, NoBiasLinear, RMSNorm
from minift.nn.packing import Packing
from minift.nn.positions import RelativePositionBias
from minift.options import bounded

FEED_FORWARDS = tuple(f"{gate}{name}" for gate in ("", "gated-") for name in ACTIVATIONS)


@dataclass(frozen=True, kw_only=True)
class T5Config(Seq2SeqConfig):
    """config.json of a T5 checkpoint; the defaults are those of t5-small."""

    model_type = "t5"
    dropouts: ClassVar[Sequence[str]] = ("dropout_rate",)
    has_max_tokens = False  # relative positions have no maximum
    supported_values: ClassVar[Mapping[str, Sequence[Any]]] = {
        "is_decoder": (False, None),
        "tie_encoder_decoder": (False, None),
    }

    d_model: int = bounded(512, 1, 10**5)  # H
    d_kv: int = bounded(64, 1, 10**4)  # D
    d_ff: int = bounded(2048, 1, 10**6)  # I
    num_layers: int = bounded(6, 1, 128)  # of the encoder
    num_decoder_layers: int | None = bounded(None, 1, 128)  # None: num_layers
    num_heads: int = bounded(8, 1, 10**4)  # N
    # Default length limit of sources, as in training; None: 512.
    n_positions: int | None = bounded(512, 1, 10**7)
    relative_attention_num_buckets: int = bounded(32, 4, 10**4)
    # All greater distances share one bucket.
    relative_attention_max_distance: int = bounded(128, 1, 10**6)
    dropout_rate: float = bounded(0.1, 0, 1)
    layer_norm_epsilon: float = bounded(1e-6, 0, 1)
    initializer_factor: float = bounded(1.0, 0, 100)
    feed_forward_proj: Literal[FEED_FORWARDS] = "relu"  # or "gated-gelu", "gated-silu", ...
    # The two parts of feed_forward_proj; `transformers` goes by them if they differ from it.
    dense_act_fn: Literal[tuple(ACTIVATIONS)] | None = None
    is_gated_act: bool | None = None
    # The first T5 ties the output layer to the embeddings and scales its input by 1 / sqrt(H);
    # v1.1 and Flan-T5 do neither.  If scale_decoder_outputs is missing, it follows the config's
    # tie_word_embeddings.
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None

    def __post_init__(self) -> None:
        if self.num_decoder_layers is None:
            object.__setattr__(self, "num_decoder_layers", self.num_layers)
        if self.scale_decoder_outputs is None:
            object.__setattr__(self, "scale_decoder_outputs", self.tie_word_embeddings)
        if self.n_positions is None:
            object.__setattr__(self, "n_positions", T5Config.n_positions)
        super().__post_init__()
        buckets = self.relative_attention_num_buckets
        if self.relative_attention_max_distance <= buckets // 2:
            raise ValueError(
                f"relative_attention_max_distance is {self.relative_attention_max_distance}; it "
                f"must be above half of relative_attention_num_buckets ({buckets})"
            )

    @classmethod
    def from_size(cls, size: ModelSize) -> T5Config:
        return cls(
            vocab_size=size.vocab_size,
            d_model=size.hidden_size,
            d_kv=size.hidden_size // size.num_heads,
            d_ff=size.intermediate_size,
            num_layers=size.num_layers,
            num_heads=size.num_heads,
            dropout_rate=size.dropout,
            pad_token_id=size.pad_token_id,
            eos_token_id=size.eos_token_id,
            decoder_start_token_id=size.pad_token_id,
        )

    @property
    def max_tokens(self) -> int:
        """Default length limit of sources."""
        return self.n_positions

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layers are gated."""
        own = self.is_gated_act
        return self.feed_forward_proj.startswith("gated-") if own is None else own

    @property
    def activation(self) -> str:
        """The name in `ACTIVATIONS`; gated-gelu means GELU's tanh approximation, as in v1.1."""
        if self.dense_act_fn is not None:
            return self.dense_act_fn
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else name

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "dense_act_fn": self.activation,
            "is_gated_act": self.gated,
        }


class T5Attention(nn.Module):
    """Base class of self-attention and cross-attention: norm, output layer and dropout."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.heads = config.num_heads
        self.fused = config.attn_implementation == "sdpa"
        self.head_width = config.d_kv
        self.inner = config.num_heads * config.d_kv
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.output = NoBiasLinear(self.inner, config.d_model)
        self.dropout = Dropout(config.dropout_rate)

    @property
    def attention_dropout(self) -> float:
        return self.dropout.p if self.training else 0.0

    def padded_attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attention over padded rows without scaling of scores: (B, N, U, D) -> (B, N, U, D)."""
        return attention(q, k, v, bias, dropout=self.attention_dropout, fused=self.fused, scale=1.0)


class T5SelfAttention(T5Attention):
    """Self-attention with its norm and residual."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.qkv = NoBiasLinear(config.d_model, 3 * self.inner)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., H) -> query, key, value, (..., N, D) each."""
        return self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)

    def forward(self, x: Tensor, packing: Packing, bias: Tensor) -> Tensor:
        """The encoder, bidirectional: x (S, H), bias (N, T, T) or (B, N, T, T) -> (S, H)."""
        q, k, v = self.project(x)  # (S, N, D) each
        dropout = self.attention_dropout
        mixed = packed_attention(
            q, k, v, packing, dropout=dropout, fused=self.fused, scale=1.0, bias=bias
        )  # (S, N, D)
        return x + self.dropout(self.output(mixed.flatten(1)))  # (S, H)

    def causal(self, x: Tensor, bias: Tensor) -> Tensor:
        """The decoder in training: x (B, U, H), bias (N, U, U), -inf above the diagonal."""
        q, k, v = (part.transpose(1, 2) for part in self.project(x))  # (B, N, U, D) each
        mixed = self.padded_attention(q, k, v, bias)  # (B, N, U, D)
        return x + self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))  # (B, U, H)

    def step(self, x: Tensor, cache: LayerCache) -> Tensor:
        """The decoder in generation: the new tokens of each row, x (R * n, H) -> (R * n, H)."""
        qkv = self.qkv(self.norm(x)).view(len(cache.keys), -1, 3, self.heads, self.head_width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (R, N, n, D) each
        mixed = self.padded_attention(q, *cache.extend(k, v), cache.bias)  # (R, N, n, D)
        return x + self.output(mixed.transpose(1, 2).reshape(len(x), -1))  # (R * n, H)


class T5CrossAttention(T5Attention):
    """Attention of the decoder to the encoder's output, with norm and residual."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.query = NoBiasLinear(config.d_model, self.inner)
        self.kv = NoBiasLinear(config.d_model, 2 * self.inner)

    def keys_and_values(self, encoded: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Keys and values of the sources, computed once: (S, H) -> (B, N, T, D) each."""
        kv = packing.pad(self.kv(encoded)).unflatten(-1, (2, self.heads, -1))  # (B, T, 2, N, D)
        return kv.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, source_bias: Tensor) -> Tensor:
        """x (B, U, H); keys, values (B, N, T, D); source_bias (B, 1, 1, T) masks padding."""
        q = self.query(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = self.padded_attention(q, keys, values, source_bias)  # (B, N, U, D)
        return x + self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))  # (B, U, H)


def feed_forward(config: T5Config) -> FeedForward:
    """A feed-forward layer as the config describes it: (..., H) -> (..., H)."""
    norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
    return FeedForward(norm, config.d_ff, config.activation, config.gated, config.dropout_rate)


class T5EncoderLayer(nn.Module):
    """Self-attention and feed-forward layer: (S, H) -> (S, H)."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.attention = T5SelfAttention(config)
        self.feed_forward = feed_forward(config)

    def forward(self, x: Tensor, packing: Packing, bias: Tensor) -> Tensor:
        return self.feed_forward(self.attention(x, packing, bias))


class T5DecoderLayer(DecoderLayer):
    """Causal self-attention, cross-attention and feed-forward layer; see `DecoderLayer`."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.attention = T5SelfAttention(config)
        self.cross_attention = T5CrossAttention(config)
        self.feed_forward = feed_forward(config)

    def source_keys_and_values(self, encoded: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        return self.cross_attention.keys_and_values(encoded, packing)

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        source_keys: Tensor,
        source_values: Tensor,
        source_bias: Tensor,
    ) -> Tensor:
        x = self.attention.causal(x, bias)
        x = self.cross_attention(x, source_keys, source_values, source_bias)
        return self.feed_forward(x)  # (B, U, H)

    def step(
        self,
        x: Tensor,
        cache: LayerCache,
        source_keys: Tensor,
        source_values: Tensor,
        source_bias: Tensor,
    ) -> Tensor:
        x = self.attention.step(x, cache)  # (R * n, H)
        # The rows of a source are so many queries for its keys.
        grouped = x.unflatten(0, (len(source_keys), -1))  # (B, rows_per_source * n, H)
        mixed = self.cross_attention(grouped, source_keys, source_values, source_bias)
        return self.feed_forward(mixed.flatten(0, 1))  # (R * n, H)


class T5Stack(nn.Module):
    """Encoder or decoder: its layers, their relative position bias, and the final norm."""

    def __init__(self, config: T5Config, layers: Sequence[nn.Module], bidirectional: bool):
        super().__init__()
        self.position = RelativePositionBias(
            config.num_heads,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            bidirectional,
        )
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def final_norm(self, x: Tensor) -> Tensor:
        """The norm after the last layer, then dropout: (..., H) -> (..., H)."""
        return self.dropout(self.norm(x))
