"""The base class of encoder-decoders: shifted targets, the loss, and generation.

Dimensions: B batch, T width of the padded sources, S real source tokens in the batch, U width of
the targets, H hidden, V vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from minift.data.batching import IGNORE_INDEX
from minift.generation.cache import DecoderState, EncoderMemory
from minift.generation.config import GenerationConfig
from minift.generation.search import SpecialTokens, search
from minift.models.base import PretrainedModel
from minift.nn.kernels import prepacked_weights
from minift.nn.packing import Packing


class Seq2SeqModel(PretrainedModel):
    """An encoder-decoder.  A family defines the five methods that raise NotImplementedError.

    model(input_ids (B, T), attention_mask=None (B, T), decoder_input_ids=(B, U))
        -> logits (B, U, V)

    `decoder_input_ids` are the targets shifted right (`shift_right`); logits at their padding are
    unspecified.
    """

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Packing]:
        """The encoder's output, packed: (S, H), and the packing that pads it."""
        raise NotImplementedError

    def encoder_memory(self, encoded: Tensor, packing: Packing) -> EncoderMemory:
        """Keys and values of the sources for each decoder layer."""
        raise NotImplementedError

    def decode(self, decoder_input_ids: Tensor, memory: EncoderMemory) -> Tensor:
        """The decoder's output for whole targets: (B, U) -> (B, U, H)."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """The output layer: (..., H) -> (..., V)."""
        raise NotImplementedError

    def generation_layers(self) -> list[nn.Module]:
        """The modules whose weights `generate` reads at every step."""
        raise NotImplementedError

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
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> Tensor:
        """Generate targets: (B, T) -> (B * num_return_sequences, at most 1 + max_new_tokens).

        The result begins with the decoder start token and is padded.
        settings: the fields of `GenerationConfig`, `max_new_tokens` among them.
        generator: makes sampling reproducible.
        """
        config, generation = self.config, GenerationConfig(**settings)
        special = SpecialTokens(
            start=config.decoder_start_token_id, eos=config.eos_token_id, pad=config.pad_token_id
        )
        rows_per_source = generation.rows_per_source
        with self.prepacked_for_generation(len(input_ids) * rows_per_source):
            memory = self.encoder_memory(*self.encode(input_ids, attention_mask))
            decoder = DecoderState(self, memory, rows_per_source, generation.max_new_tokens)
            device = input_ids.device
            return search(decoder, len(input_ids), special, generation, generator, device)

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
