"""What a text teaches BERT without labels: the words behind masks (Devlin et al. 2019).

    text     the river rose in the rain
    chosen       -----          ----
    source   [CLS] the [MASK] rose in the tea [SEP]
    target             river              rain

15 % of the tokens are chosen; of those 80 % become [MASK], 10 % any token, 10 % stay as they are,
so that the model must know of every token whether it fits.

What is hidden of a chunk is a function of (seed, step), so a run that is resumed, or done again,
sees the same.

Dimensions: R tokens of a chunk, B batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minift.errors import InputError
from minift.models.bert import BertConfig
from minift.models.bert_masked import BertForMaskedLM
from minift.pretraining.base import ModelOptions, Objective
from minift.pretraining.vocabulary import save_wordpiece, train_wordpiece
from minift.text.tokenizer import Tokenizer

DENSITY, MASKED, REPLACED = 0.15, 0.8, 0.1


class Masks(Objective):
    """BERT's part of pre-training.

    Biases begin at zero, where steps in proportion to what they change would get nowhere: AdamW.
    """

    optimizer, usual_rate = "adamw", 1e-3

    def __init__(self, tokenizer: Tokenizer, options: ModelOptions):
        frame = (tokenizer.cls_token_id, tokenizer.mask_token_id, tokenizer.sep_token_id)
        if None in frame:
            raise InputError(
                "the tokenizer has no [CLS], [MASK] and [SEP]; use a BERT with its own tokenizer"
            )
        self.cls, self.mask, self.end = frame
        self.vocab_size = tokenizer.vocab_size

    @staticmethod
    def make_tokenizer(documents: Iterable[str], vocab_size: int, folder: Path) -> None:
        save_wordpiece(train_wordpiece(documents, vocab_size), folder)

    @staticmethod
    def new_model(tokenizer: Tokenizer, options: ModelOptions, longest: int) -> BertForMaskedLM:
        config = BertConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=options.d_model,
            intermediate_size=options.d_ff,
            num_hidden_layers=options.num_layers,
            num_attention_heads=options.num_heads,
            max_position_embeddings=max(512, longest),
            hidden_dropout_prob=options.dropout,
            attention_probs_dropout_prob=options.dropout,
            pad_token_id=tokenizer.pad_token_id,
        )
        return BertForMaskedLM(config)

    @staticmethod
    def load_model(folder: Path, dropout: float) -> BertForMaskedLM:
        """An encoder without a head for masked words gets a new one."""
        return BertForMaskedLM.from_pretrained(
            folder,
            new_head=not BertForMaskedLM.has_head(folder),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )

    def batch(self, chunks: np.ndarray, random: np.random.Generator) -> tuple[Tensor, ...]:
        """Chunks (B, R) -> ids (B, 1 + R + 1), which of them to guess, and the C guessed (C,)."""
        shown, chosen = mask_tokens(chunks, random, self.mask, self.vocab_size)
        ids = np.pad(shown, ((0, 0), (1, 1)), constant_values=self.end)
        ids[:, 0] = self.cls
        places = np.pad(chosen, ((0, 0), (1, 1)))
        return tuple(torch.from_numpy(x) for x in (ids, places, chunks[chosen]))

    @staticmethod
    def loss(model: BertForMaskedLM, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the chosen tokens, and their number."""
        return model.masked_loss(*batch)


def mask_tokens(
    tokens: np.ndarray, random: np.random.Generator, mask: int, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Chunks (B, R) as the model sees them, and which of their tokens were chosen (B, R).

    Of each chunk 15 % are chosen, at least one; here the first becomes the mask 4, the fifth
    any token.

    >>> random = np.random.default_rng(3)
    >>> shown, chosen = mask_tokens(np.arange(10, 30)[None], random, mask=4, vocab_size=100)
    >>> shown[0, :10].tolist(), np.flatnonzero(chosen).tolist()
    ([4, 11, 12, 13, 0, 15, 16, 17, 18, 19], [0, 4, 18])
    """
    batch, width = tokens.shape
    count = max(1, round(width * DENSITY))
    chosen = random.random((batch, width)).argsort(1) < count
    fate = random.random((batch, width))
    any_token = random.integers(0, vocab_size, (batch, width))
    shown = np.where(chosen & (fate < MASKED), mask, tokens)
    swapped = chosen & (fate >= MASKED) & (fate < MASKED + REPLACED)
    return np.where(swapped, any_token, shown), chosen
