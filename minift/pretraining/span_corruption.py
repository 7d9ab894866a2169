"""What a text teaches T5 without labels: what its gaps held, and which of its sentences says most.

Span corruption (Raffel et al. 2020):

    text     Thank you for inviting me to your party last week
    gaps                  ------------            ----
    source   Thank you <0> me to your party <1> week </s>
    target   <0> for inviting <1> last </s>

About 15 % of the tokens lie in gaps, three tokens long on average; "<0>" is the sentinel
<extra_id_0>.

Gap sentences (Zhang et al. 2020, PEGASUS): of a share of the chunks the sentence that has most in
common with the others is the target, as if it were their summary:

    text     It rained. The river rose in the rain. Tea was served.
    source   summarize: It rained. <0> Tea was served. </s>
    target   The river rose in the rain. </s>

Every other time the sentence stays where it is, so that the model learns to copy.  A share of them
is not the most central but the first, with which writers tend to say what follows (Zhu et al. 2021,
"Leveraging lead bias for zero-shot abstractive news summarization"); the text then begins with it:

    source   summarize: <0> The river rose in the rain. Tea was served. </s>
    target   It rained. </s>

Whole texts (Lewis et al. 2020, BART): a share of the gaps' targets is the text itself, every token
of it.  Most can be copied, and copying is what a summary needs first: with a few thousand steps to
spend, begin with these on short chunks.

    source   Thank you <0> me to your party <1> week </s>
    target   Thank you for inviting me to your party last week </s>

What is hidden of a chunk is a function of (seed, step), so a run that is resumed, or done again,
sees the same.

Dimensions: R tokens of a chunk, B batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from minift.data.batching import pad
from minift.errors import InputError
from minift.models.t5 import IGNORE, T5Config, T5ForConditionalGeneration
from minift.pretraining.base import ModelOptions, Objective
from minift.pretraining.vocabulary import SENTINELS, save_unigram, sentinel, train_unigram
from minift.text.tokenizer import Tokenizer

DENSITY, SPAN = 0.15, 3.0  # share of tokens in gaps; their mean length
KEPT = 0.5  # share of gap sentences that stay in the source
SHORTEST, LONGEST = 6, 64  # tokens of a sentence that may be a summary


class Gaps(Objective):
    """T5's part of pre-training.

    T5 was made with Adafactor (Shazeer and Stern 2018): its steps are in proportion to the size of
    what they change, which suits embeddings of size 1 beside matrices of size 1 / sqrt(H).
    """

    optimizer, usual_rate = "adafactor", 1e-2

    def __init__(self, tokenizer: Tokenizer, options: ModelOptions):
        self.sentences, self.lead, self.whole = options.sentences, options.lead, options.whole
        self.end, self.padding = tokenizer.eos_token_id, tokenizer.pad_token_id
        ids = [tokenizer.id_of(sentinel(i)) for i in range(SENTINELS)]
        if None in ids or self.end is None:
            raise InputError(
                "the tokenizer has no <extra_id_0> ... <extra_id_99> and </s>, the names of gaps; "
                "use a T5 with its own tokenizer"
            )
        self.sentinels: list[int] = ids
        self.prefix = tokenizer.ids(["summarize:"])[0]
        pieces = tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))
        self.ends = np.array([piece.endswith((".", "!", "?")) for piece in pieces])
        # Not only before capitals: a rare word may begin with the bare "▁".
        self.starts = np.array([piece[0] == "▁" and not piece[1:2].islower() for piece in pieces])

    @staticmethod
    def make_tokenizer(documents: Iterable[str], vocab_size: int, folder: Path) -> None:
        save_unigram(train_unigram(documents, vocab_size), folder)

    @staticmethod
    def new_model(
        tokenizer: Tokenizer, options: ModelOptions, longest: int
    ) -> T5ForConditionalGeneration:
        config = T5Config(
            vocab_size=tokenizer.vocab_size,
            d_model=options.d_model,
            d_kv=options.d_model // options.num_heads,
            d_ff=options.d_ff,
            num_layers=options.num_layers,
            num_heads=options.num_heads,
            dropout_rate=options.dropout,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
        return T5ForConditionalGeneration(config)

    @staticmethod
    def load_model(folder: Path, dropout: float) -> T5ForConditionalGeneration:
        return T5ForConditionalGeneration.from_pretrained(folder, dropout_rate=dropout)

    def batch(self, chunks: np.ndarray, random: np.random.Generator) -> tuple[Tensor, ...]:
        """Sources (B, T), their masks (B, T), and targets (B, U) for chunks (B, R)."""
        pairs = [self.pair(chunk, random) for chunk in chunks]
        ids = pad([source for source, _ in pairs], self.padding)
        mask = pad([[1] * len(source) for source, _ in pairs], 0)
        return ids, mask, pad([target for _, target in pairs], IGNORE)

    @staticmethod
    def loss(model: T5ForConditionalGeneration, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the targets' tokens, and their number."""
        return model.target_loss(*batch)

    def pair(self, chunk: np.ndarray, random: np.random.Generator) -> tuple[list[int], list[int]]:
        """A chunk (R,) -> source and target; a chunk without a sentence to hide gets gaps."""
        place = None
        if random.random() < self.sentences:
            bounds = self.sentence_bounds(chunk)
            if self.lead and random.random() < self.lead:
                chunk, place = first_sentence(chunk, bounds)
            else:
                place = central_sentence(chunk, bounds)
        if place is None:
            source, target = span_corruption(chunk, random, self.sentinels, self.end)
            return source, [*chunk.tolist(), self.end] if random.random() < self.whole else target
        before, after = chunk[: place[0]].tolist(), chunk[place[1] :].tolist()
        summary = chunk[slice(*place)].tolist()
        left = summary if random.random() < KEPT else [self.sentinels[0]]
        return [*self.prefix, *before, *left, *after, self.end], [*summary, self.end]

    def sentence_bounds(self, chunk: np.ndarray) -> np.ndarray:
        """Where sentences begin: behind </s>, or behind a full stop and not in a small letter."""
        after_stop = self.ends[chunk[:-1]] & self.starts[chunk[1:]]
        return 1 + np.flatnonzero(after_stop | (chunk[:-1] == self.end))


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


def first_sentence(
    tokens: np.ndarray, bounds: np.ndarray
) -> tuple[np.ndarray, tuple[int, int] | None]:
    """The chunk from its first whole sentence on, and where that ends; None: its length is not fit.

    >>> first_sentence(np.array([9, 1, 2, 3, 4, 5, 6, 7, 8]), np.array([1, 7]))
    (array([1, 2, 3, 4, 5, 6, 7, 8]), (0, 6))
    """
    if len(bounds) < 2 or not SHORTEST <= bounds[1] - bounds[0] <= LONGEST:
        return tokens, None
    return tokens[bounds[0] :], (0, int(bounds[1] - bounds[0]))


def _parts(total: int, count: int, random: np.random.Generator) -> list[int]:
    """`total` cut into `count` parts of at least one, all ways equally likely."""
    cuts = np.sort(random.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff([0, *cuts, total]).tolist()


def central_sentence(tokens: np.ndarray, bounds: np.ndarray) -> tuple[int, int] | None:
    """(start, end) of the whole sentence whose different tokens agree best with all others' (F1).

    bounds: where sentences begin, in order; the one before the first and the one after the last
    may not be whole and do not compete.  None: no sentence is of a fit length.

    >>> tokens = np.array([9, 1, 2, 3, 4, 5, 6, 21, 22, 23, 24, 25, 26, 1, 2, 3, 7])
    >>> central_sentence(tokens, np.array([1, 7, 13]))
    (1, 7)
    """
    best, place = 0.0, None
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if SHORTEST <= end - start <= LONGEST:
            own = set(tokens[start:end].tolist())
            others = {*tokens[:start].tolist(), *tokens[end:].tolist()}
            score = 2 * len(own & others) / (len(own) + max(1, len(others)))
            if score >= best:
                best, place = score, (start, end)
    return place
