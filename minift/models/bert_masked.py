"""BERT for masked language modelling, its pre-training objective (Devlin et al. 2019).

    hidden (S, H) ──> dense ──> GELU ──> norm ──> times the word embeddings, transposed, + bias

The output matrix is the word embedding matrix: input and output share their weights.

Dimensions: B batch, T width of the padded batch, S real tokens, M masked ones, H hidden,
V vocabulary.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from minift.errors import UserError
from minift.models.bert import BertConfig, BertPretrained, BertTokenModel
from minift.nn.layers import ACTIVATIONS
from minift.weights import Checkpoint, weights_and_biases

WORDS = "embeddings.word_embeddings.weight"
PREDICTIONS = "cls.predictions"
BIAS = f"{PREDICTIONS}.bias"


class BertPredictions(nn.Module):
    """Logits of all tokens: (..., H) and the word embeddings (V, H) -> (..., V)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return nn.functional.linear(self.norm(self.activation(self.dense(x))), words, self.bias)


class BertForMaskedLM(BertTokenModel):
    """Logits of all tokens at each position: (B, T) ids -> (B, T, V), unspecified at padding."""

    head = "predictions"
    has_label_rows = False

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
        """Whether a checkpoint has this head; if not, `reset_head=True` initialises one."""
        return f"{PREDICTIONS}.transform.dense.weight" in Checkpoint(folder, cls.weight_map)

    def prepare_for(self, checkpoint: Checkpoint, head_is_new: bool) -> set[str]:
        super().prepare_for(checkpoint, head_is_new)
        if head_is_new:
            checkpoint.ignore(rf"{re.escape(PREDICTIONS)}\..*", "a new head was asked for")
        copies = {f"{PREDICTIONS}.decoder.weight": WORDS, f"{PREDICTIONS}.decoder.bias": BIAS}
        for name, original in copies.items():
            if name in checkpoint:
                if original not in checkpoint:
                    checkpoint.rename(name, original)
                elif torch.equal(checkpoint.tensor(name), checkpoint.tensor(original)):
                    checkpoint.ignore(re.escape(name), f"a copy of {original}")
                else:
                    raise UserError(
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
        self, input_ids: Tensor, is_masked: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the masked tokens, and their number.

        input_ids: (B, T) without padding.  is_masked: (B, T), True at the M masked positions.
        labels: (M,) their tokens.  Logits are computed only at the masked positions.
        """
        x, packing = self.bert.encode(input_ids)
        hidden = packing.pad(x)[is_masked]  # (M, H)
        logits = self.predictions(hidden, self.bert.embeddings.word.weight)  # (M, V)
        total = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        return total, is_masked.sum().to(total.dtype)


BertForMaskedLM.weight_map = replace(
    BertPretrained.weight_map,
    names={
        **BertPretrained.weight_map.names,
        **weights_and_biases(
            {
                "predictions.dense": f"{PREDICTIONS}.transform.dense",
                "predictions.norm": f"{PREDICTIONS}.transform.LayerNorm",
            }
        ),
        "predictions.bias": BIAS,
    },
)
