"""What a text teaches without labels: fill the gaps (Raffel et al. 2020, span corruption).

    text     Thank you for inviting me to your party last week
    gaps                  ------------            ----
    source   Thank you <0> me to your party <1> week </s>
    target   <0> for inviting <1> last </s>

About 15 % of the tokens lie in gaps, three tokens long on average; "<0>" is the sentinel
<extra_id_0>.  Which gaps a chunk gets is a function of (seed, step), so a run that is resumed, or
done again, sees the same.

Dimensions: R tokens of a chunk, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from minift.data.batch import pad
from minift.models.t5 import T5ForConditionalGeneration, shift_right

IGNORE = -100
DENSITY, SPAN = 0.15, 3.0  # share of tokens in gaps; their mean length


def span_corruption(
    tokens: np.ndarray, random: np.random.Generator, sentinels: Sequence[int], eos: int
) -> tuple[list[int], list[int]]:
    """A chunk (R,) with gaps, and what was in them.

    sentinels: ids of <extra_id_0>, <extra_id_1>, ...; there are never more gaps than these.

    >>> random = np.random.default_rng(0)
    >>> span_corruption(np.arange(10, 20), random, [99, 98], eos=1)
    ([10, 11, 12, 13, 14, 15, 16, 17, 99, 1], [99, 18, 19, 1])
    """
    hidden = min(max(1, round(len(tokens) * DENSITY)), len(tokens) - 1)
    gaps = min(max(1, round(hidden / SPAN)), len(sentinels), len(tokens) - hidden)
    lengths = _parts(hidden, gaps, random)
    between = _parts(len(tokens) - hidden, gaps, random)
    source: list[int] = []
    target: list[int] = []
    position = 0
    for number, (kept, gone) in enumerate(zip(between, lengths, strict=True)):
        source += [*tokens[position : position + kept].tolist(), sentinels[number]]
        position += kept
        target += [sentinels[number], *tokens[position : position + gone].tolist()]
        position += gone
    return [*source, eos], [*target, eos]


def _parts(total: int, count: int, random: np.random.Generator) -> list[int]:
    """`total` cut into `count` parts of at least one, all ways equally likely."""
    cuts = np.sort(random.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff([0, *cuts, total]).tolist()


def gap_loss(
    model: T5ForConditionalGeneration,
    chunks: np.ndarray,
    random: np.random.Generator,
    sentinels: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of the targets' tokens, and their number; chunks: (B, R)."""
    config = model.config
    pairs = [span_corruption(chunk, random, sentinels, config.eos_token_id) for chunk in chunks]
    ids = pad([source for source, _ in pairs], config.pad_token_id).to(model.device)
    mask = pad([[1] * len(source) for source, _ in pairs], 0).to(model.device)
    labels = pad([target for _, target in pairs], IGNORE).to(model.device)
    logits = model(ids, mask, decoder_input_ids=shift_right(labels, config))  # (B, U, V)
    total = F.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return total, (labels != IGNORE).sum().to(total.dtype)
