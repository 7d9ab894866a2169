"""The base class of encoder-decoders: shifted targets, the loss, and generation.

Dimensions: B batch, T width of the padded sources, S real source tokens in the batch, U width of
the targets, R rows of the decoder in generation, n new tokens of a row in one step, K tokens of a
row so far, H hidden, N heads, D head width, V vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minift.data.batching import IGNORE_INDEX
from minift.generation.cache import DecoderState, EncoderMemory, LayerCache
from minift.generation.config import GenerationConfig
from minift.generation.search import SpecialTokens, search
from minift.models.base import PretrainedModel
from minift.models.config import PretrainedConfig
from minift.nn.attention import MASK_VALUE
from minift.nn.kernels import prepacked_weights
from minift.nn.layers import NoBiasLinear, OutputEmbedding
from minift.nn.packing import Packing
from minift.options import bounded, require_number


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(PretrainedConfig):
    """The fields of config.json that encoder-decoders share."""

    vocab_size: int = bounded(32128, 1, 10**8)  # V
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            require_number(self, name, 0, self.vocab_size - 1)


class DecoderLayer(nn.Module, ABC):
    """One layer of a decoder: causal self-attention, cross-attention, feed-forward block.

    source_keys, source_values: (B, N, T, D), of `source_keys_and_values`.
    source_bias: (B, 1, 1, T), added to the scores of cross-attention; masks padding.
    """

    @abstractmethod
    def source_keys_and_values(self, encoded: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Keys and values of the sources for cross-attention: (S, H) -> (B, N, T, D) each."""

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        source_keys: Tensor,
        source_values: Tensor,
        source_bias: Tensor,
    ) -> Tensor:
        """Whole targets: x (B, U, H) -> (B, U, H).

        bias: (N or 1, U, U), added to the scores of self-attention; -inf above the diagonal.
        """

    @abstractmethod
    def step(
        self,
        x: Tensor,
        cache: LayerCache,
        source_keys: Tensor,
        source_values: Tensor,
        source_bias: Tensor,
    ) -> Tensor:
        """The new tokens of each row: x (R * n, H) -> (R * n, H); their keys join the cache."""


class Seq2SeqModel(PretrainedModel):
    """An encoder-decoder.  A family defines the abstract methods.

    model(input_ids (B, T), attention_mask=None (B, T), decoder_input_ids=(B, U))
        -> logits (B, U, V)

    `decoder_input_ids` are the targets shifted right (`shift_right`); logits at their padding are
    unspecified.

    lm_head: the output layer; None: tied to the embeddings.
    """

    lora_excluded = ("lm_head",)
    peft_task_type = "SEQ_2_SEQ_LM"

    config: Seq2SeqConfig
    lm_head: nn.Linear | None

    @abstractmethod
    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Packing]:
        """The encoder's output, packed: (S, H), and the packing that pads it."""

    @abstractmethod
    def decoder_layers(self) -> Sequence[DecoderLayer]:
        """The decoder's layers from the lowest to the top."""

    @abstractmethod
    def embed_targets(self, ids: Tensor, position: slice | Tensor) -> Tensor:
        """The decoder's embeddings of tokens at these positions: (..., n) -> (..., n, H)."""

    @abstractmethod
    def decoder_bias(self, length: int, last_query_only: bool = False) -> Tensor:
        """(N or 1, length or 1, length), added to the decoder's scores; the future is not masked.

        It depends only on the distance between query and key, so generation asks for the bias of
        the last query and shifts it.
        """

    @abstractmethod
    def finish_decoder(self, x: Tensor) -> Tensor:
        """After the last layer of the decoder: (..., H) -> (..., H)."""

    @property
    @abstractmethod
    def output_embedding(self) -> OutputEmbedding:
        """The embeddings (V, H) that the output layer is tied to if `lm_head` is None."""

    def encoder_memory(self, encoded: Tensor, packing: Packing) -> EncoderMemory:
        """The sources' keys and values for each decoder layer, computed once."""
        pairs = [layer.source_keys_and_values(encoded, packing) for layer in self.decoder_layers()]
        keys, values = zip(*pairs, strict=True)
        real = packing.pad(encoded.new_ones(len(encoded)))  # (B, T)
        return EncoderMemory(keys, values, ((1 - real) * MASK_VALUE)[:, None, None])

    def decode(self, decoder_input_ids: Tensor, memory: EncoderMemory) -> Tensor:
        """The decoder's output for whole targets (teacher forcing): (B, U) -> (B, U, H)."""
        length = decoder_input_ids.shape[1]
        x = self.embed_targets(decoder_input_ids, slice(0, length))  # (B, U, H)
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        bias = self.decoder_bias(length).masked_fill(future, -math.inf)  # (N or 1, U, U)
        for layer, keys, values in zip(
            self.decoder_layers(), memory.keys, memory.values, strict=True
        ):
            x = layer(x, bias, keys, values, memory.bias)  # (B, U, H)
        return self.finish_decoder(x)

    def decoder_step(
        self, tokens: Tensor, caches: Sequence[LayerCache], memory: EncoderMemory
    ) -> Tensor:
        """The decoder's output for the new tokens of each row: (R, n) -> (R, n, H)."""
        x = self.embed_targets(tokens, caches[0].position).flatten(0, 1)  # (R * n, H)
        for layer, cache, keys, values in zip(
            self.decoder_layers(), caches, memory.keys, memory.values, strict=True
        ):
            x = layer.step(x, cache, keys, values, memory.bias)  # (R * n, H)
        return self.finish_decoder(x).unflatten(0, tokens.shape)  # (R, n, H)

    def logits(self, x: Tensor) -> Tensor:
        """The output layer: (..., H) -> (..., V)."""
        return self.output_embedding.logits(x) if self.lm_head is None else self.lm_head(x)

    def replace_tied_output(self, make_layer: Callable[[Tensor], nn.Module]) -> None:
        if self.lm_head is None:
            self.lm_head = make_layer(self.output_embedding.weight)

    def generation_layers(self) -> list[nn.Module]:
        """The modules whose weights `generate` reads in blocks (`prepacked_weights`).

        The encoder's layers too: on its many rows, blocks are at least as fast as plain weights.
        """
        layers: list[nn.Module] = [m for m in self.modules() if isinstance(m, NoBiasLinear)]
        return layers if self.lm_head is not None else [*layers, self.output_embedding]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, decoder_input_ids: Tensor
    ) -> Tensor:
        memory = self.encoder_memory(*self.encode(input_ids, attention_mask))
        return self.logits(self.decode(decoder_input_ids, memory))  # (B, U, V)

    def target_loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        label_smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the targets' tokens, and their number.

        labels: (B, U), `IGNORE_INDEX` at padding.  Logits are computed only where there is a label.
        """
        real = labels != IGNORE_INDEX  # (B, U)
        memory = self.encoder_memory(*self.encode(input_ids, attention_mask))
        config = self.config
        inputs = shift_right(labels, config.decoder_start_token_id, config.pad_token_id)  # (B, U)
        logits = self.logits(self.decode(inputs, memory)[real])  # (labels, V)
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
        decoder_input_ids: Tensor | None = None,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> Tensor:
        """Generate targets: (B, T) -> (B * num_return_sequences, at most P + max_new_tokens).

        The result begins with the prompt and is padded.

        decoder_input_ids: the prompts (B, P) that the targets begin with, without padding.  The
            decoder start token is put before them if none has it.  None: that token, P = 1.
        settings: the fields of `GenerationConfig`, `max_new_tokens` among them.
        generator: makes sampling reproducible.
        """
        config, generation = self.config, GenerationConfig(**settings)
        prompts = self._prompts(len(input_ids), decoder_input_ids).to(input_ids.device)
        special = SpecialTokens(eos=config.eos_token_id, pad=config.pad_token_id)
        rows_per_source = generation.rows_per_source
        max_length = prompts.shape[1] - 1 + generation.max_new_tokens  # the last one is not read
        with self.prepacked_for_generation(len(input_ids) * rows_per_source):
            memory = self.encoder_memory(*self.encode(input_ids, attention_mask))
            decoder = DecoderState(self, memory, rows_per_source, max_length)
            return search(decoder, prompts, special, generation, generator)

    def _prompts(self, batch_size: int, decoder_input_ids: Tensor | None) -> Tensor:
        """The prompts (B, P) with the decoder start token; `ValueError` if they do not fit."""
        start = torch.full((batch_size, 1), self.config.decoder_start_token_id)
        if decoder_input_ids is None:
            return start
        prompts = decoder_input_ids
        if prompts.dim() != 2 or len(prompts) != batch_size or not prompts.shape[1]:
            raise ValueError(
                f"decoder_input_ids must be ({batch_size}, at least 1), a prompt for each source, "
                f"not {tuple(prompts.shape)}"
            )
        if prompts.is_floating_point():
            raise ValueError(f"decoder_input_ids holds {prompts.dtype}, not integers")
        if (prompts[:, 0] != self.config.decoder_start_token_id).all():
            prompts = torch.cat([start.to(prompts), prompts], 1)
        return prompts

    def prepacked_for_generation(self, num_rows: int) -> AbstractContextManager[None]:
        """In this context, `generate` does not lay out the weights again for each batch.

        The weights must not change meanwhile.  num_rows: about how many sequences a batch has.
        """
        return prepacked_weights(self.generation_layers(), num_rows)


def shift_right(labels: Tensor, decoder_start_token_id: int, pad_token_id: int) -> Tensor:
    """The decoder's input for `labels` (B, U): the start token, then all labels but the last.

    >>> shift_right(torch.tensor([[7, 8, 1, -100]]), decoder_start_token_id=0, pad_token_id=0)
    tensor([[0, 7, 8, 1]])
    """
    shifted = labels.roll(1, 1)
    shifted[:, 0] = decoder_start_token_id
    return shifted.masked_fill(shifted == IGNORE_INDEX, pad_token_id)
