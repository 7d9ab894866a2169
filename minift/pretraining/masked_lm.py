"""Masked language modelling, BERT's pre-training objective (Devlin et al. 2019, "BERT").

    text     the river rose in the rain
    chosen       -----          ----
    source   [CLS] the [MASK] rose in the tea [SEP]
    target             river              rain

15 % of the tokens are chosen for prediction.  Of those 80 % become [MASK], 10 % become a random
token, and 10 % stay unchanged, so that the model must judge of every token whether it fits.

The tokens that are masked in a step are a function of (seed, step), so a resumed or repeated run
masks the same ones.

Dimensions: B batch, R tokens of a block, C chosen tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minift.errors import UserError
from minift.models.masked_lm import EncoderForMaskedLM
from minift.pretraining.base import ModelOptions, Objective
from minift.pretraining.vocabulary import save_wordpiece, train_wordpiece
from minift.text.tokenizer import Tokenizer

MLM_PROBABILITY = 0.15  # share of the tokens that are chosen for prediction
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the chosen tokens: become [MASK], become a random token


class MaskedLM(Objective):
    """BERT's pre-training objective, for every encoder with word pieces.

    The optimiser is AdamW.  Adafactor's steps are proportional to the size of a parameter, so it
    would hardly move the biases, which are initialised to zero.
    """

    model_kind = EncoderForMaskedLM
    optimizer, default_learning_rate = "adamw", 1e-3
    num_special, has_head = 2, True  # [CLS] and [SEP]
    ignored_options = ("gap_sentence_ratio", "lead_ratio", "full_text_ratio")

    def __init__(self, tokenizer: Tokenizer, options: ModelOptions):
        special = (tokenizer.cls_token_id, tokenizer.mask_token_id, tokenizer.sep_token_id)
        if None in special:
            raise UserError(
                "the tokenizer has no [CLS], [MASK] and [SEP]; use a checkpoint whose tokenizer "
                "has them"
            )
        self.cls_token_id, self.mask_token_id, self.end_token_id = special
        self.vocab_size = tokenizer.vocab_size

    @staticmethod
    def make_tokenizer(documents: Iterable[str], vocab_size: int, folder: Path) -> None:
        save_wordpiece(train_wordpiece(documents, vocab_size), folder)

    @staticmethod
    def load_model(
        model_class: type[EncoderForMaskedLM], folder: Path, dropout: float
    ) -> EncoderForMaskedLM:
        """A checkpoint without a masked-LM head gets a new one."""
        reset_head = not model_class.has_head(folder)
        changes = model_class.config_class.with_dropout(dropout)
        return model_class.from_pretrained(folder, reset_head=reset_head, **changes)

    def batch(self, blocks: np.ndarray, random: np.random.Generator) -> tuple[Tensor, ...]:
        """Mask blocks (B, R) and frame them with [CLS] and [SEP].

        Returns input ids (B, 1 + R + 1), the chosen positions as booleans of that shape, and the
        labels (C,), the original tokens at those positions.
        """
        corrupted, chosen = mask_tokens(blocks, random, self.mask_token_id, self.vocab_size)
        input_ids = np.pad(corrupted, ((0, 0), (1, 1)), constant_values=self.end_token_id)
        input_ids[:, 0] = self.cls_token_id
        is_masked = np.pad(chosen, ((0, 0), (1, 1)))  # (B, 1 + R + 1)
        return tuple(torch.from_numpy(x) for x in (input_ids, is_masked, blocks[chosen]))

    @staticmethod
    def loss(model: EncoderForMaskedLM, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the chosen tokens, and their number."""
        return model.masked_loss(*batch)


def mask_tokens(
    tokens: np.ndarray, random: np.random.Generator, mask_token_id: int, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The corrupted blocks (B, R), and which of their tokens were chosen for prediction (B, R).

    15 % of each block are chosen, at least one token.  Here the first becomes the mask token 4 and
    the fifth the random token 0.

    >>> random = np.random.default_rng(3)
    >>> corrupted, chosen = mask_tokens(np.arange(10, 30)[None], random, 4, vocab_size=100)
    >>> corrupted[0, :10].tolist(), np.flatnonzero(chosen).tolist()
    ([4, 11, 12, 13, 0, 15, 16, 17, 18, 19], [0, 4, 18])
    """
    batch, length = tokens.shape
    count = max(1, round(length * MLM_PROBABILITY))
    chosen = random.random((batch, length)).argsort(1) < count
    draw = random.random((batch, length))
    random_tokens = random.integers(0, vocab_size, (batch, length))
    corrupted = np.where(chosen & (draw < MASK_SHARE), mask_token_id, tokens)
    replaced = chosen & (draw >= MASK_SHARE) & (draw < MASK_SHARE + RANDOM_SHARE)
    return np.where(replaced, random_tokens, corrupted), chosen
