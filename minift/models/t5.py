"""T5: a source text goes in, a target text comes out, a token at a time.

Papers: Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text
Transformer"; v1.1 and Flan-T5 use the gated feed-forward layer of Shazeer 2020.

Dimensions: B batch, T width of the padded sources, S real source tokens in the batch, U width of
the targets, H d_model, N heads, D d_kv (N * D need not be H), I d_ff, V vocabulary.

    source ids ──> embeddings ──> encoder layers ──> norm ──> keys, values of each decoder layer
                       │                                                  │
    target ids ────────┴──────────────> decoder layers <──────────────────┘
    (moved right by one)                       └──> norm ──> output (V x H) ──> logits

The encoder works on the real tokens alone, (S, H), see nn/attention.py; the decoder, whose targets
are short, on (B, U, H).
"""

from __future__ import annotations

import math
import re
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from minift.errors import InputError
from minift.generation.cache import Source, T5Decoder
from minift.generation.config import Generation
from minift.generation.search import Ends, search
from minift.models.base import PretrainedModel
from minift.models.t5_layers import (
    T5Config,
    T5CrossAttention,
    T5DecoderLayer,
    T5EncoderLayer,
    T5SelfAttention,
    T5Stack,
)
from minift.nn.attention import LOWEST, Packing, barred, pack
from minift.nn.layers import FeedForward, Linear, RMSNorm, packed_for_few, product
from minift.nn.positions import PositionBias
from minift.weights import Checkpoint, NameTable

IGNORE = -100  # the label that the loss leaves out


class T5ForConditionalGeneration(PretrainedModel):
    """Encoder, decoder and the scores of the next token.

    model(input_ids (B, T), attention_mask=None (B, T), decoder_input_ids=(B, U))
        -> logits (B, U, V)

    `decoder_input_ids` are the targets moved right by one (`shift_right`); logits at their padding
    are unspecified.
    """

    config_class = T5Config
    config: T5Config
    bottom = ("shared", "position")

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.shared.packed = None  # as that of a `Linear`, where it is also the output
        self.encoder = T5Stack(
            config, [T5EncoderLayer(config) for _ in range(config.num_layers)], both_ways=True
        )
        self.decoder = T5Stack(
            config,
            [T5DecoderLayer(config) for _ in range(config.num_decoder_layers)],
            both_ways=False,
        )
        self.lm_head: nn.Linear | None = None  # None: the output is the embeddings, transposed
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.d_model, config.vocab_size)
        self.apply(self.init_weights)

    def init_weights(self, module: nn.Module) -> None:
        """As T5 starts: no scaling of scores, so queries start smaller by sqrt(D)."""
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
        elif isinstance(module, PositionBias):
            normal(module.table.weight, 1 / config.d_model)
        elif isinstance(module, RMSNorm):
            nn.init.constant_(module.weight, factor)
        elif isinstance(module, T5ForConditionalGeneration):
            normal(module.shared.weight, 1.0)
            if module.lm_head is not None:
                normal(module.lm_head.weight, 1.0)

    def adapt(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        """The one embedding of T5 may be stored under several names, or under another one."""
        copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
        there = [name for name in [*copies, "lm_head.weight"] if name in checkpoint]
        if "shared.weight" not in checkpoint and there:
            checkpoint.rename(there.pop(0), "shared.weight")
        untied = False
        shared = checkpoint.tensor("shared.weight") if there else None
        for name in there:
            if torch.equal(checkpoint.tensor(name), shared):
                checkpoint.leave_aside(re.escape(name), "a copy of shared.weight")
            elif name == "lm_head.weight":
                untied = True
            else:
                raise InputError(
                    f"{checkpoint.folder}: the tensor {name!r} differs from 'shared.weight', but "
                    "T5 has one embedding; use a checkpoint of this family"
                )
        # Whether the output is the embeddings or another matrix, the weights say, not the config.
        self.config = replace(self.config, tie_word_embeddings=not untied)
        self.lm_head = None
        if untied:
            size = self.shared.weight.shape
            with torch.device("meta"):  # as `from_pretrained` makes all of the model
                self.lm_head = Linear(*reversed(size))
        return set()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, decoder_input_ids: Tensor
    ) -> Tensor:
        source = self.source(*self.encode(input_ids, attention_mask))
        return self.logits(self.decode(decoder_input_ids, source))

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Packing]:
        """The encoder's output, still packed: (S, H) and where its tokens belong."""
        packing = pack(torch.ones_like(input_ids) if attention_mask is None else attention_mask)
        x = self.encoder.dropout(self.shared(packing.take(input_ids)))  # (S, H)
        bias = self.encoder.position(packing.width)  # (N, T, T)
        if x.is_cuda or packing.has_holes:
            bias = barred(bias, packing)  # (B, N, T, T)
        for layer in self.encoder.layers:
            x = layer(x, packing, bias)  # (S, H)
        return self.encoder.finish(x), packing

    def source(self, encoded: Tensor, packing: Packing) -> Source:
        """Keys and values of the sources for each layer of the decoder, computed once."""
        pairs = [layer.cross.source(encoded, packing) for layer in self.decoder.layers]
        keys, values = zip(*pairs, strict=True)
        real = packing.pad(encoded.new_ones(len(encoded)))  # (B, T)
        return Source(keys, values, ((1 - real) * LOWEST)[:, None, None])

    def decode(self, decoder_input_ids: Tensor, source: Source) -> Tensor:
        """The decoder's output for whole targets: (B, U) -> (B, U, H)."""
        width = decoder_input_ids.shape[1]
        x = self.decoder.dropout(self.shared(decoder_input_ids))  # (B, U, H)
        ahead = torch.ones(width, width, dtype=torch.bool, device=x.device).triu(1)
        bias = self.decoder.position(width).masked_fill(ahead, -math.inf)  # (N, U, U)
        for layer, keys, values in zip(
            self.decoder.layers, source.keys, source.values, strict=True
        ):
            x = layer(x, bias, keys, values, source.mask)  # (B, U, H)
        return self.decoder.finish(x)

    def logits(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., V)"""
        if self.config.scale_decoder_outputs:
            x = x * self.config.d_model**-0.5
        if self.lm_head is None:
            return product(x, self.shared.weight, self.shared.packed)
        return self.lm_head(x)

    def target_loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        label_smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the targets' tokens, and their number.

        labels: (B, U), `IGNORE` at padding.  The scores of V tokens are computed where there is a
        label, and nowhere else.
        """
        real = labels != IGNORE  # (B, U)
        source = self.source(*self.encode(input_ids, attention_mask))
        x = self.decode(shift_right(labels, self.config), source)  # (B, U, H)
        logits = self.logits(x[real])  # (labels, V)
        total = nn.functional.cross_entropy(
            logits.float(), labels[real], reduction="sum", label_smoothing=label_smoothing
        )
        return total, real.sum().to(total.dtype)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> Tensor:
        """Targets for the sources: (B, T) -> (B * num_return_sequences, up to 1 + max_new_tokens).

        They begin with the start token and are filled up with padding.  settings: the fields of
        `generate.rules.Generation`; max_new_tokens must be among them.  generator: makes drawing
        reproducible.
        """
        config, generation = self.config, Generation(**settings)
        ends = Ends(config.decoder_start_token_id, config.eos_token_id, config.pad_token_id)
        with self.ready_for(len(input_ids) * generation.width):
            source = self.source(*self.encode(input_ids, attention_mask))
            decoder = T5Decoder(self, source, generation.width, generation.max_new_tokens)
            return search(decoder, len(input_ids), ends, generation, generator, input_ids.device)

    def ready_for(self, rows: int) -> AbstractContextManager[None]:
        """Within, `generate` need not prepare the weights that each step reads for every batch.

        They must not change meanwhile.  rows: sequences in a batch, about.
        """
        # The encoder's among them: its many rows, too, are multiplied as fast in blocks, or faster.
        layers = [module for module in self.modules() if isinstance(module, Linear)]
        return packed_for_few([*layers, self.shared] if self.lm_head is None else layers, rows)


def shift_right(labels: Tensor, config: T5Config) -> Tensor:
    """What the decoder reads to predict `labels`: the start token, then all but the last label.

    >>> shift_right(torch.tensor([[7, 8, 1, -100]]), T5Config()).tolist()
    [[0, 7, 8, 1]]
    """
    moved = labels.roll(1, 1)
    moved[:, 0] = config.decoder_start_token_id
    return moved.masked_fill(moved == IGNORE, config.pad_token_id)


def _layer(theirs: str, ours: str, last: int) -> dict[str, str | tuple[str, ...]]:
    """Names of a layer's self-attention and, as its part number `last`, its feed-forward."""
    attention, feed = f"{theirs}.0.SelfAttention", f"{theirs}.{last}.DenseReluDense"
    return {
        f"{ours}.attention.norm.weight": f"{theirs}.0.layer_norm.weight",
        f"{ours}.attention.qkv.weight": tuple(f"{attention}.{part}.weight" for part in "qkv"),
        f"{ours}.attention.output.weight": f"{attention}.o.weight",
        f"{ours}.feed_forward.norm.weight": f"{theirs}.{last}.layer_norm.weight",
        f"{ours}.feed_forward.up.weight": f"{feed}.wi.weight",
        f"{ours}.feed_forward.gate_up.weight": (f"{feed}.wi_0.weight", f"{feed}.wi_1.weight"),
        f"{ours}.feed_forward.down.weight": f"{feed}.wo.weight",
    }


CROSS = "decoder.block.{i}.layer.1"
BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"

# Our name -> theirs.  Several of theirs, stacked by rows, make one of ours.
T5ForConditionalGeneration.table = NameTable(
    prefix="",
    names={
        "shared.weight": "shared.weight",
        "lm_head.weight": "lm_head.weight",
        "encoder.position.table.weight": f"encoder.{BIAS}",
        "decoder.position.table.weight": f"decoder.{BIAS}",
        "encoder.norm.weight": "encoder.final_layer_norm.weight",
        "decoder.norm.weight": "decoder.final_layer_norm.weight",
        **_layer("encoder.block.{i}.layer", "encoder.layers.{i}", last=1),
        **_layer("decoder.block.{i}.layer", "decoder.layers.{i}", last=2),
        "decoder.layers.{i}.cross.norm.weight": f"{CROSS}.layer_norm.weight",
        "decoder.layers.{i}.cross.query.weight": f"{CROSS}.EncDecAttention.q.weight",
        "decoder.layers.{i}.cross.kv.weight": (
            f"{CROSS}.EncDecAttention.k.weight",
            f"{CROSS}.EncDecAttention.v.weight",
        ),
        "decoder.layers.{i}.cross.output.weight": f"{CROSS}.EncDecAttention.o.weight",
    },
    ignored={
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": (
            "an unused bias that the first T5 checkpoints carry"
        ),
    },
)
