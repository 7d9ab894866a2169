"""T5: an encoder reads the source text, a decoder writes the target text token by token.

Papers: Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text
Transformer"; v1.1 and Flan-T5 use the gated feed-forward layer of Shazeer 2020.

Dimensions: B batch, T width of the padded sources, S real source tokens in the batch, U width of
the targets, H d_model, N heads, D d_kv (N * D need not be H), I d_ff, V vocabulary.

    source ids ──> embeddings ──> encoder layers ──> norm ──> keys, values of each decoder layer
                       │                                                  │
    target ids ────────┴──────────────> decoder layers <──────────────────┘
    (shifted right)                            └──> norm ──> output (V x H) ──> logits

The encoder computes only on real tokens, (S, H), see nn/packing.py.  Targets are short, so the
decoder computes on the padded batch, (B, U, H).  The layers are in t5_layers.py; loss and
generation are those of every encoder-decoder, in seq2seq.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from minift.errors import UserError
from minift.models.seq2seq import Seq2SeqModel
from minift.models.t5_layers import (
    T5Config,
    T5CrossAttention,
    T5DecoderLayer,
    T5EncoderLayer,
    T5SelfAttention,
    T5Stack,
)
from minift.nn.attention import masked_bias
from minift.nn.layers import FeedForward, NoBiasLinear, OutputEmbedding, RMSNorm
from minift.nn.packing import Packing, pack
from minift.nn.positions import RelativePositionBias
from minift.weights import Checkpoint, WeightMap


class T5ForConditionalGeneration(Seq2SeqModel):
    """Encoder, decoder and output layer; see `Seq2SeqModel` for the call, loss and `generate`."""

    config_class = T5Config
    config: T5Config
    default_target_modules = ("q", "v")

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.shared = OutputEmbedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(
            config, [T5EncoderLayer(config) for _ in range(config.num_layers)], bidirectional=True
        )
        self.decoder = T5Stack(
            config,
            [T5DecoderLayer(config) for _ in range(config.num_decoder_layers)],
            bidirectional=False,
        )
        self.lm_head = None  # tied to the embeddings
        if not config.tie_word_embeddings:
            self.lm_head = NoBiasLinear(config.d_model, config.vocab_size)
        self.apply(self.init_weights)

    @classmethod
    def weight_map(cls) -> WeightMap:
        return WEIGHT_MAP

    def embedding_modules(self) -> list[nn.Module]:
        return [self.shared, self.encoder.position, self.decoder.position]

    def layer_stacks(self) -> list[nn.ModuleList]:
        return [self.encoder.layers, self.decoder.layers]

    def decoder_layers(self) -> Sequence[T5DecoderLayer]:
        return self.decoder.layers

    @property
    def output_embedding(self) -> OutputEmbedding:
        return self.shared

    def init_weights(self, module: nn.Module) -> None:
        """T5's initialisation: scores are not scaled, so queries are smaller by sqrt(D)."""
        config, factor = self.config, self.config.initializer_factor

        def normal(weight: Tensor, variance: float) -> None:
            nn.init.normal_(weight, std=factor * variance**0.5)

        inner = config.num_heads * config.d_kv
        if isinstance(module, T5SelfAttention):
            query, rest = module.qkv.weight.split((inner, 2 * inner))
            normal(query, 1 / (config.d_model * config.d_kv))
            normal(rest, 1 / config.d_model)
            normal(module.output.weight, 1 / inner)
        elif isinstance(module, T5CrossAttention):
            normal(module.query.weight, 1 / (config.d_model * config.d_kv))
            normal(module.kv.weight, 1 / config.d_model)
            normal(module.output.weight, 1 / inner)
        elif isinstance(module, FeedForward):
            normal((module.gate_up or module.up).weight, 1 / config.d_model)
            normal(module.down.weight, 1 / config.d_ff)
        elif isinstance(module, RelativePositionBias):
            normal(module.embedding.weight, 1 / config.d_model)
        elif isinstance(module, RMSNorm):
            nn.init.constant_(module.weight, factor)
        elif isinstance(module, T5ForConditionalGeneration):
            normal(module.shared.weight, 1.0)
            if module.lm_head is not None:
                normal(module.lm_head.weight, 1.0)

    def prepare_for(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        """Find T5's one embedding matrix, which checkpoints store under one name or several."""
        copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
        stored = [name for name in [*copies, "lm_head.weight"] if name in checkpoint]
        if "shared.weight" not in checkpoint and stored:
            checkpoint.rename(stored.pop(0), "shared.weight")
        untied = False
        shared = checkpoint.tensor("shared.weight") if stored else None
        for name in stored:
            if torch.equal(checkpoint.tensor(name), shared):
                checkpoint.ignore(re.escape(name), "a copy of shared.weight")
            elif name == "lm_head.weight":
                untied = True
            else:
                raise UserError(
                    f"{checkpoint.folder}: the tensor {name!r} differs from 'shared.weight', but "
                    "T5 has one embedding; use a checkpoint of this family"
                )
        # The weights decide whether the output layer is tied, whatever the config says.
        self.config = replace(self.config, tie_word_embeddings=not untied)
        self.lm_head = None
        if untied:
            size = self.shared.weight.shape
            with torch.device("meta"):  # like the rest of the model in `from_pretrained`
                self.lm_head = NoBiasLinear(*reversed(size))
        return set()

    @property
    def unlike_transformers(self) -> str | None:
        if self.config.scale_decoder_outputs is self.config.tie_word_embeddings:
            return None
        return "it scales the decoder's output where the output layer is tied, and only there"

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Packing]:
        """The encoder's output, still packed: (S, H), and the packing that pads it."""
        packing = pack(torch.ones_like(input_ids) if attention_mask is None else attention_mask)
        x = self.encoder.dropout(self.shared(packing.unpad(input_ids)))  # (S, H)
        bias = self.encoder.position(packing.padded_length)  # (N, T, T)
        if x.is_cuda or packing.has_gaps:
            bias = masked_bias(bias, packing)  # (B, N, T, T)
        for layer in self.encoder.layers:
            x = layer(x, packing, bias)  # (S, H)
        return self.encoder.final_norm(x), packing

    def embed_targets(self, ids: Tensor, position: slice | Tensor) -> Tensor:
        return self.decoder.dropout(self.shared(ids))  # the bias holds the positions

    def decoder_bias(self, length: int, last_query_only: bool = False) -> Tensor:
        return self.decoder.position(length, last_query_only)  # (N, length or 1, length)

    def finish_decoder(self, x: Tensor) -> Tensor:
        return self.decoder.final_norm(x)

    def logits(self, x: Tensor) -> Tensor:
        if self.config.scale_decoder_outputs:
            x = x * self.config.d_model**-0.5
        return super().logits(x)


def _layer(in_checkpoint: str, ours: str, last: int) -> dict[str, str | tuple[str, ...]]:
    """Our names -> a checkpoint's, for a layer's self-attention and feed-forward weights.

    last: index of the feed-forward block in a checkpoint's layer; self-attention has index 0.
    """
    attention, feed = f"{in_checkpoint}.0.SelfAttention", f"{in_checkpoint}.{last}.DenseReluDense"
    return {
        f"{ours}.attention.norm.weight": f"{in_checkpoint}.0.layer_norm.weight",
        f"{ours}.attention.qkv.weight": tuple(f"{attention}.{part}.weight" for part in "qkv"),
        f"{ours}.attention.output.weight": f"{attention}.o.weight",
        f"{ours}.feed_forward.norm.weight": f"{in_checkpoint}.{last}.layer_norm.weight",
        f"{ours}.feed_forward.up.weight": f"{feed}.wi.weight",
        f"{ours}.feed_forward.gate_up.weight": (f"{feed}.wi_0.weight", f"{feed}.wi_1.weight"),
        f"{ours}.feed_forward.down.weight": f"{feed}.wo.weight",
    }


CROSS = "decoder.block.{i}.layer.1"
BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"

# Our name -> the name in a checkpoint, or several names whose tensors are stacked by rows.
WEIGHT_MAP = WeightMap(
    prefix="",
    names={
        "shared.weight": "shared.weight",
        "lm_head.weight": "lm_head.weight",
        "encoder.position.embedding.weight": f"encoder.{BIAS}",
        "decoder.position.embedding.weight": f"decoder.{BIAS}",
        "encoder.norm.weight": "encoder.final_layer_norm.weight",
        "decoder.norm.weight": "decoder.final_layer_norm.weight",
        **_layer("encoder.block.{i}.layer", "encoder.layers.{i}", last=1),
        **_layer("decoder.block.{i}.layer", "decoder.layers.{i}", last=2),
        "decoder.layers.{i}.cross_attention.norm.weight": f"{CROSS}.layer_norm.weight",
        "decoder.layers.{i}.cross_attention.query.weight": f"{CROSS}.EncDecAttention.q.weight",
        "decoder.layers.{i}.cross_attention.kv.weight": (
            f"{CROSS}.EncDecAttention.k.weight",
            f"{CROSS}.EncDecAttention.v.weight",
        ),
        "decoder.layers.{i}.cross_attention.output.weight": f"{CROSS}.EncDecAttention.o.weight",
    },
    ignored={
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": (
            "an unused bias that the first T5 checkpoints carry"
        ),
    },
)
