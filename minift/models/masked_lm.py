"""Masked language modelling over any encoder: BERT's pre-training objective (Devlin et al. 2019).

    hidden (S, H) ──> dense ──> activation ──> norm ──> word embeddings, transposed ──> + bias

The output matrix is the word embedding matrix: input and output share their weights.

Dimensions: B batch, T width of the padded batch, S real tokens, M masked ones, H hidden,
V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from minift.errors import UserError
from minift.models.base import HEAD
from minift.models.encoder import Encoder, EncoderConfig
from minift.models.heads import EncoderWithTokenHead
from minift.nn.layers import ACTIVATIONS
from minift.weights import Checkpoint


class MaskedLMHead(nn.Module):
    """Logits of all tokens: (..., H) and the word embeddings (V, H) -> (..., V)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return nn.functional.linear(self.norm(self.activation(self.dense(x))), words, self.bias)


class EncoderForMaskedLM(EncoderWithTokenHead):
    """Logits of all tokens at each position: (B, T) ids -> (B, T, V), unspecified at padding.

    tied_names: names in a checkpoint that may hold a copy of another tensor -> our name of that
        tensor.
    """

    required = (*EncoderWithTokenHead.required, "tied_names")
    tied_names: ClassVar[Mapping[str, str]]

    def make_head(self) -> nn.Module:
        return MaskedLMHead(self.config)

    def init_weights(self, module: nn.Module) -> None:
        super().init_weights(module)
        if isinstance(module, MaskedLMHead):
            nn.init.zeros_(module.bias)

    @classmethod
    def has_head(cls, folder: Path) -> bool:
        """Whether a checkpoint has this head; if not, `reset_head=True` initialises one."""
        (dense,) = cls.weight_map().checkpoint_names(f"{HEAD}.dense.weight")
        return dense in Checkpoint(folder, cls.weight_map())

    def prepare_for(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        new = super().prepare_for(checkpoint, head_is_new)
        weight_map = self.weight_map()
        if head_is_new:
            own = (name for name in weight_map.names if name.startswith(f"{HEAD}."))
            theirs = (name for ours in own for name in weight_map.checkpoint_names(ours))
            for name in (*theirs, *self.tied_names):
                checkpoint.ignore(re.escape(name), "a new head was asked for")
        for name, ours in self.tied_names.items():
            (found,) = weight_map.checkpoint_names(ours)
            original = weight_map.canonical(found)
            if name in checkpoint:
                if original not in checkpoint:
                    checkpoint.rename(name, original)
                elif torch.equal(checkpoint.tensor(name), checkpoint.tensor(original)):
                    checkpoint.ignore(re.escape(name), f"a copy of {original}")
                else:
                    raise UserError(
                        f"{checkpoint.folder}: the tensor {name!r} differs from {original!r}, but "
                        "this family has one tensor for both; use a checkpoint of this family"
                    )
        return new

    def logits(self, x: Tensor) -> Tensor:
        return self.head(x, self.encoder.output_embedding.weight)  # (..., V)

    def masked_loss(
        self, input_ids: Tensor, is_masked: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the masked tokens, and their number.

        input_ids: (B, T) without padding.  is_masked: (B, T), True at the M masked positions.
        labels: (M,) their tokens.  Logits are computed only at the masked positions.
        """
        x, packing = self.encoder.encode(input_ids)
        hidden = packing.pad(x)[is_masked]  # (M, H)
        logits = self.logits(hidden)  # (M, V)
        total = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        return total, is_masked.sum().to(total.dtype)

    def load_encoder(self, other: Encoder) -> None:
        """Take over the weights of another encoder, in place; its pooler is left out."""
        weights = {n: x for n, x in other.state_dict().items() if not n.startswith("pooler.")}
        self.encoder.load_state_dict(weights)
