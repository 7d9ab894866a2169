"""T5's config and the layers of its encoder and decoder.

Dimensions: as in t5.py; R rows of the decoder in generation.

One layer, pre-norm (the norm stands before each part, beside the main path), the decoder's with
attention to the source between the two:

    x ──┬──────────────────────────────────────(+)──┬─────────────────────────────────────(+)── ...
        └─> norm ──> q, k, v ──> attend ──> output ──┘└─> norm ──> feed-forward ──> dropout ──┘

    encoder   attends to all tokens of the source            bias by distance, both directions
    decoder   attends to the target so far                   bias by distance, backwards
              attends to the encoder's output                no bias

Positions are known only by the bias: a number for each head and bucket of distances, added to the
scores (nn/positions.py).  Scores are not divided by sqrt(D): the weights start smaller instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from minift.models.base import PretrainedConfig, require, require_number
from minift.nn.attention import Packing, attend, attend_padded
from minift.nn.layers import ACTIVATIONS, Dropout, FeedForward, Linear, RMSNorm
from minift.nn.positions import PositionBias


@dataclass(frozen=True, kw_only=True)
class T5Config(PretrainedConfig):
    """config.json of a T5 checkpoint; the defaults are those of t5-small."""

    model_type = "t5"
    dropouts: ClassVar[Mapping[str, str]] = {"all": "dropout_rate"}
    hard_limit = False  # distances know no end
    fixed: ClassVar[Mapping[str, Sequence[Any]]] = {"is_decoder": (False, None)}

    vocab_size: int = 32128  # V
    d_model: int = 512  # H
    d_kv: int = 64  # D
    d_ff: int = 2048  # I
    num_layers: int = 6  # of the encoder
    num_decoder_layers: int | None = None  # None: as many
    num_heads: int = 8  # N
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128  # all that is further is one bucket
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"  # or "gated-gelu", "gated-silu", ...
    # Original T5 ties the output to the embeddings and scales what goes into it by 1 / sqrt(H);
    # v1.1 and Flan-T5 do neither.  Where a config does not say whether to scale, tying says it.
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_decoder_layers is None:
            object.__setattr__(self, "num_decoder_layers", self.num_layers)
        if self.scale_decoder_outputs is None:
            object.__setattr__(self, "scale_decoder_outputs", self.tie_word_embeddings)
        # Bounds far above any T5: a damaged config is refused instead of filling the memory.
        for name, high in {
            "vocab_size": 10**8,
            "d_model": 10**5,
            "d_kv": 10**4,
            "d_ff": 10**6,
            "num_layers": 10**3,
            "num_decoder_layers": 10**3,
            "num_heads": 10**4,
            "relative_attention_max_distance": 10**6,
        }.items():
            require_number(self, name, 1, high)
        require_number(self, "relative_attention_num_buckets", 4, 10**4)
        for name in ("dropout_rate", "layer_norm_epsilon"):
            require_number(self, name, 0, 1, float)
        require_number(self, "initializer_factor", 0, 100, float)
        for name in ("tie_word_embeddings", "scale_decoder_outputs"):
            require(self, name, (True, False))
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            require_number(self, name, 0, self.vocab_size - 1)
        names = [f"{gate}{name}" for gate in ("", "gated-") for name in ACTIVATIONS]
        require(self, "feed_forward_proj", names)
        buckets = self.relative_attention_num_buckets
        if self.relative_attention_max_distance <= buckets // 2:
            raise ValueError(
                f"relative_attention_max_distance is {self.relative_attention_max_distance}; it "
                f"must be above half of relative_attention_num_buckets ({buckets})"
            )

    @property
    def max_position_embeddings(self) -> int:
        """How long sources usually are: what the checkpoint says, or what T5 was trained with."""
        return int(self.extra.get("n_positions", 512))

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> str:
        """The reference reads gated-gelu as the GELU by tanh, which v1.1 was trained with."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else name


class T5Attention(nn.Module):
    """What attention to the own sequence and to the source share."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.heads = config.num_heads
        self.fused = config.attn_implementation == "sdpa"
        self.inner = config.num_heads * config.d_kv
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.output = Linear(self.inner, config.d_model)
        self.dropout = Dropout(config.dropout_rate)

    @property
    def weight_dropout(self) -> float:
        return self.dropout.p if self.training else 0.0

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attention over padded rows, (B, N, U, D) queries -> (B, N, U, D)."""
        return attend_padded(
            q, k, v, bias, dropout=self.weight_dropout, fused=self.fused, scale=1.0
        )


class T5SelfAttention(T5Attention):
    """Attention to the own sequence, with norm and residual."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.qkv = Linear(config.d_model, 3 * self.inner)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., H) -> query, key, value, (..., N, D) each."""
        return self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)

    def forward(self, x: Tensor, packing: Packing, bias: Tensor) -> Tensor:
        """The encoder's: x (S, H), bias (N, T, T)."""
        q, k, v = self.project(x)  # (S, N, D) each
        mixed = attend(
            q, k, v, packing, dropout=self.weight_dropout, fused=self.fused, scale=1.0, bias=bias
        )
        return x + self.dropout(self.output(mixed.flatten(1)))  # (S, H)

    def causal(self, x: Tensor, bias: Tensor) -> Tensor:
        """The decoder's in training: x (B, U, H), bias (N, U, U) with -inf for what is ahead."""
        q, k, v = (part.transpose(1, 2) for part in self.project(x))  # (B, N, U, D) each
        mixed = self.mix(q, k, v, bias)  # (B, N, U, D)
        return x + self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))  # (B, U, H)

    def step(
        self, x: Tensor, keys: Tensor, values: Tensor, here: slice | Tensor, bias: Tensor
    ) -> Tensor:
        """The decoder's in generation: x (R, H) of R rows, whose keys and values join the cache.

        keys, values: (R, N, longest, D).  here: the place of x, as a slice or a tensor of one
        number.  bias: (N, 1, K) for the first K places, which are looked at.
        """
        q, k, v = (part.unsqueeze(2) for part in self.project(x))  # (R, N, 1, D) each
        keys[:, :, here], values[:, :, here] = k, v
        known = slice(0, bias.shape[-1])
        mixed = self.mix(q, keys[:, :, known], values[:, :, known], bias)  # (R, N, 1, D)
        return x + self.output(mixed.flatten(1))  # (R, H)


class T5CrossAttention(T5Attention):
    """Attention of the target to the encoder's output, with norm and residual."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.query = Linear(config.d_model, self.inner)
        self.kv = Linear(config.d_model, 2 * self.inner)

    def source(self, encoded: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """The source's keys and values, which no target changes: (S, H) -> (B, N, T, D) each."""
        kv = packing.pad(self.kv(encoded)).unflatten(-1, (2, self.heads, -1))  # (B, T, 2, N, D)
        return kv.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """x (B, U, H); keys, values (B, N, T, D); mask (B, 1, 1, T), lowest at padding."""
        q = self.query(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = self.mix(q, keys, values, mask)  # (B, N, U, D)
        return x + self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))  # (B, U, H)


def feed_forward(config: T5Config) -> FeedForward:
    norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
    return FeedForward(norm, config.d_ff, config.activation, config.gated, config.dropout_rate)


class T5EncoderLayer(nn.Module):
    def __init__(self, config: T5Config):
        super().__init__()
        self.attention = T5SelfAttention(config)
        self.feed_forward = feed_forward(config)

    def forward(self, x: Tensor, packing: Packing, bias: Tensor) -> Tensor:
        return self.feed_forward(self.attention(x, packing, bias))


class T5DecoderLayer(nn.Module):
    def __init__(self, config: T5Config):
        super().__init__()
        self.attention = T5SelfAttention(config)
        self.cross = T5CrossAttention(config)
        self.feed_forward = feed_forward(config)

    def forward(
        self, x: Tensor, bias: Tensor, keys: Tensor, values: Tensor, mask: Tensor
    ) -> Tensor:
        return self.feed_forward(self.cross(self.attention.causal(x, bias), keys, values, mask))


class T5Stack(nn.Module):
    """What encoder and decoder share: layers, the bias of the first, the norm after the last."""

    def __init__(self, config: T5Config, layers: Sequence[nn.Module], both_ways: bool):
        super().__init__()
        self.position = PositionBias(
            config.num_heads,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            both_ways,
        )
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def finish(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(x))
