"""BERT that says which words stand behind masks: what it was pre-trained with (Devlin et al. 2019).

    hidden (S, H) ──> dense ──> GELU ──> norm ──> times the word embeddings, transposed, + bias

The last matrix is the word embeddings themselves: one matrix says what goes in and what comes out.

Dimensions: B batch, T width of the padded batch, S real tokens, M masked ones, H hidden,
V vocabulary.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from minift.errors import InputError
from minift.models.bert import BertConfig, BertPretrained, BertTokenHead
from minift.nn.layers import ACTIVATIONS
from minift.weights import Checkpoint

WORDS = "embeddings.word_embeddings.weight"
PREDICTIONS = "cls.predictions"
BIAS = f"{PREDICTIONS}.bias"


class BertPredictions(nn.Module):
    """Scores of all words: (..., H) and the word embeddings (V, H) -> (..., V)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return nn.functional.linear(self.norm(self.activation(self.dense(x))), words, self.bias)


class BertForMaskedLM(BertTokenHead):
    """Scores of all words at each token: (B, T) ids -> logits (B, T, V), unspecified at padding."""

    head = "predictions"
    labelled = False

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.predictions = BertPredictions(config)
        self.apply(self.init_weights)

    def init_weights(self, module: nn.Module) -> None:
        super().init_weights(module)
        if isinstance(module, BertPredictions):
            nn.init.zeros_(module.bias)

    @classmethod
    def has_head(cls, folder: Path) -> bool:
        """Whether a checkpoint brings the head along; if not, ask for one with `new_head`."""
        return f"{PREDICTIONS}.transform.dense.weight" in Checkpoint(folder, cls.table)

    def adapt(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        super().adapt(checkpoint, head_is_new)
        if head_is_new:
            checkpoint.leave_aside(rf"{re.escape(PREDICTIONS)}\..*", "a new head was asked for")
        copies = {f"{PREDICTIONS}.decoder.weight": WORDS, f"{PREDICTIONS}.decoder.bias": BIAS}
        for name, original in copies.items():
            if name in checkpoint:
                if original not in checkpoint:
                    checkpoint.rename(name, original)
                elif torch.equal(checkpoint.tensor(name), checkpoint.tensor(original)):
                    checkpoint.leave_aside(re.escape(name), f"a copy of {original}")
                else:
                    raise InputError(
                        f"{checkpoint.folder}: the tensor {name!r} differs from {original!r}, but "
                        "BERT has one matrix for both; use a checkpoint of this family"
                    )
        return set()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        x, packing = self.bert.encode(input_ids, attention_mask, token_type_ids)
        return packing.pad(self.predictions(x, self.bert.embeddings.word.weight))

    def masked_loss(
        self, input_ids: Tensor, places: Tensor, truth: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the words that were hidden, and their number.

        input_ids: (B, T) without padding.  places: (B, T), True where a word was hidden.
        truth: (M,) those words.  The scores of V words are computed at these places alone.
        """
        x, packing = self.bert.encode(input_ids)
        hidden = packing.pad(x)[places]  # (M, H)
        logits = self.predictions(hidden, self.bert.embeddings.word.weight)  # (M, V)
        total = nn.functional.cross_entropy(logits.float(), truth, reduction="sum")
        return total, places.sum().to(total.dtype)


BertForMaskedLM.table = replace(
    BertPretrained.table,
    names={
        **BertPretrained.table.names,
        "predictions.dense.weight": f"{PREDICTIONS}.transform.dense.weight",
        "predictions.dense.bias": f"{PREDICTIONS}.transform.dense.bias",
        "predictions.norm.weight": f"{PREDICTIONS}.transform.LayerNorm.weight",
        "predictions.norm.bias": f"{PREDICTIONS}.transform.LayerNorm.bias",
        "predictions.bias": BIAS,
    },
)
