"""The pre-training objectives of T5: span corruption, gap sentences and full-text reconstruction.

Span corruption (Raffel et al. 2020, "T5"):

    text     Thank you for inviting me to your party last week
    noise              ------------                  ---------
    source   Thank you <0> me to your party <1> </s>
    target   <0> for inviting <1> last week </s>

"<0>" is the sentinel <extra_id_0>.  Kept spans and noise spans alternate, from a kept span at the
start to a noise span at the end.  The noise density is 15 %, lower than in this illustration; the
mean length of a noise span is three tokens.

Gap sentences (Zhang et al. 2020, "PEGASUS"): in a share of the blocks the target is one sentence,
as a pseudo-summary: the sentence whose set of tokens has the highest F1 with the rest of the block.
Sentences end at ".", "!" or "?", unless a lowercase letter follows.

    text     It rained. The river rose in the rain. Tea was served.
    source   summarize: It rained. <0> Tea was served. </s>
    target   The river rose in the rain. </s>

In half of these blocks the sentence is not hidden, so that the model learns to copy.

Lead bias (Zhu et al. 2021, "Leveraging lead bias for zero-shot abstractive news summarization"): in
a share of the gap sentences the target is the first sentence instead, because writers tend to begin
with the main point; the source then begins with that sentence:

    source   summarize: <0> The river rose in the rain. Tea was served. </s>
    target   It rained. </s>

Full text (Lewis et al. 2020, "BART"): in a share of the blocks with span corruption the target is
the whole text.  Most of it can be copied, and copying is the first skill of a summarizer: with only
a few thousand steps, begin with full-text targets on short blocks.

    source   Thank you <0> me to your party <1> </s>
    target   Thank you for inviting me to your party last week </s>

The tokens that are hidden in a step are a function of (seed, step), so a resumed or repeated run
hides the same ones.

Dimensions: B batch, R tokens of a block, T tokens of the longest source, U tokens of the longest
target.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from minift.data.batching import IGNORE_INDEX, pad
from minift.errors import UserError
from minift.models.seq2seq import Seq2SeqModel
from minift.pretraining.base import ModelOptions, Objective
from minift.pretraining.vocabulary import SENTINELS, save_unigram, sentinel, train_unigram
from minift.text.tokenizer import Tokenizer

NOISE_DENSITY = 0.15  # share of the tokens that are in noise spans
MEAN_NOISE_SPAN_LENGTH = 3.0  # tokens
VISIBLE_SHARE = 0.5  # share of the gap sentences that are not hidden from the source
MIN_SENTENCE, MAX_SENTENCE = 6, 64  # tokens of a gap sentence


class SpanCorruption(Objective):
    """T5's pre-training objectives, for every encoder-decoder.

    T5 was trained with Adafactor (Shazeer and Stern 2018).  Its steps are proportional to the size
    of a parameter, which suits embeddings of size 1 beside matrices of size 1 / sqrt(H).
    """

    model_kind = Seq2SeqModel
    optimizer, default_learning_rate = "adafactor", 1e-2
    num_special, has_head = 1, False  # </s>

    def __init__(self, tokenizer: Tokenizer, options: ModelOptions):
        self.options = options
        self.end_token_id, self.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        ids = [tokenizer.id_of(sentinel(i)) for i in range(SENTINELS)]
        if None in ids or self.end_token_id is None:
            raise UserError(
                "the tokenizer has no sentinels <extra_id_0> ... <extra_id_99> and </s>; use a "
                "checkpoint whose tokenizer has them"
            )
        self.sentinels: list[int] = ids
        self.prefix = tokenizer.ids(["summarize:"])[0]
        tokens = tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))
        # (V,) whether a token can end a sentence, and whether it can begin the next one.
        self.is_end = np.array([token.endswith((".", "!", "?")) for token in tokens])
        # Not only capitals can follow "▁": a rare word may begin with the bare "▁".
        self.is_start = np.array(
            [token.startswith("▁") and not token[1:2].islower() for token in tokens]
        )

    @staticmethod
    def make_tokenizer(documents: Iterable[str], vocab_size: int, folder: Path) -> None:
        save_unigram(train_unigram(documents, vocab_size), folder)

    @staticmethod
    def load_model(model_class: type[Seq2SeqModel], folder: Path, dropout: float) -> Seq2SeqModel:
        changes = model_class.config_class.with_dropout(dropout)
        return model_class.from_pretrained(folder, **changes)

    def batch(self, blocks: np.ndarray, random: np.random.Generator) -> tuple[Tensor, ...]:
        """Blocks (B, R) -> padded sources (B, T), attention mask (B, T), targets (B, U)."""
        pairs = [self.pair(block, random) for block in blocks]
        input_ids = pad([source for source, _ in pairs], self.pad_token_id)
        attention_mask = pad([[1] * len(source) for source, _ in pairs], 0)
        return input_ids, attention_mask, pad([target for _, target in pairs], IGNORE_INDEX)

    @staticmethod
    def loss(model: Seq2SeqModel, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the targets' tokens, and their number."""
        return model.target_loss(*batch)

    def pair(self, block: np.ndarray, random: np.random.Generator) -> tuple[list[int], list[int]]:
        """A block (R,) -> source and target.

        A block without a suitable gap sentence gets span corruption.
        """
        options, end = self.options, self.end_token_id
        span = None
        if random.random() < options.gap_sentence_ratio:
            bounds = self.sentence_bounds(block)
            if options.lead_ratio and random.random() < options.lead_ratio:
                block, span = first_sentence(block, bounds)
            else:
                span = central_sentence(block, bounds)
        if span is None:
            source, target = span_corruption(block, random, self.sentinels, end)
            if random.random() < options.full_text_ratio:
                target = [*block.tolist(), end]
            return source, target
        before, after = block[: span[0]].tolist(), block[span[1] :].tolist()
        sentence = block[slice(*span)].tolist()
        gap = sentence if random.random() < VISIBLE_SHARE else [self.sentinels[0]]
        return [*self.prefix, *before, *gap, *after, end], [*sentence, end]

    def sentence_bounds(self, block: np.ndarray) -> np.ndarray:
        """The positions where sentences begin.

        They begin after </s>, and after ".", "!" or "?" unless a lowercase letter follows.
        """
        after_stop = self.is_end[block[:-1]] & self.is_start[block[1:]]
        return 1 + np.flatnonzero(after_stop | (block[:-1] == self.end_token_id))


def span_corruption(
    tokens: np.ndarray, random: np.random.Generator, sentinels: Sequence[int], end_token_id: int
) -> tuple[list[int], list[int]]:
    """A block (R,) -> source, with a sentinel for each noise span, and target, with the spans.

    sentinels: ids of <extra_id_0>, <extra_id_1>, ...; there are never more noise spans than these.

    >>> random = np.random.default_rng(0)
    >>> span_corruption(np.arange(10, 20), random, [99, 98], end_token_id=1)
    ([10, 11, 12, 13, 14, 15, 16, 17, 99, 1], [99, 18, 19, 1])
    """
    noise_tokens = min(max(1, round(len(tokens) * NOISE_DENSITY)), len(tokens) - 1)
    kept_tokens = len(tokens) - noise_tokens
    spans = min(max(1, round(noise_tokens / MEAN_NOISE_SPAN_LENGTH)), len(sentinels), kept_tokens)
    noise_lengths = random_partition(noise_tokens, spans, random)
    kept_lengths = random_partition(kept_tokens, spans, random)
    source: list[int] = []
    target: list[int] = []
    position = 0
    for sentinel_id, kept, noise in zip(sentinels, kept_lengths, noise_lengths, strict=False):
        source += [*tokens[position : position + kept].tolist(), sentinel_id]
        position += kept
        target += [sentinel_id, *tokens[position : position + noise].tolist()]
        position += noise
    return [*source, end_token_id], [*target, end_token_id]


def first_sentence(
    tokens: np.ndarray, bounds: np.ndarray
) -> tuple[np.ndarray, tuple[int, int] | None]:
    """The block from its first whole sentence on, and (start, end) of that sentence there.

    bounds: where sentences begin, in order.  None instead of (start, end): the sentence has no end,
    or is too short or too long for a gap sentence.

    >>> first_sentence(np.array([9, 1, 2, 3, 4, 5, 6, 7, 8]), np.array([1, 7]))
    (array([1, 2, 3, 4, 5, 6, 7, 8]), (0, 6))
    """
    if len(bounds) < 2 or not MIN_SENTENCE <= bounds[1] - bounds[0] <= MAX_SENTENCE:
        return tokens, None
    return tokens[bounds[0] :], (0, int(bounds[1] - bounds[0]))


def random_partition(total: int, count: int, random: np.random.Generator) -> list[int]:
    """Cut `total` into `count` parts of at least one, all partitions equally likely."""
    cuts = np.sort(random.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff([0, *cuts, total]).tolist()


def central_sentence(tokens: np.ndarray, bounds: np.ndarray) -> tuple[int, int] | None:
    """(start, end) of the whole sentence whose set of tokens has the highest F1 with the rest.

    bounds: where sentences begin, in order.  The text before the first and after the last bound may
    be a partial sentence and is never chosen.  None: no sentence has a suitable length.

    >>> tokens = np.array([9, 1, 2, 3, 4, 5, 6, 21, 22, 23, 24, 25, 26, 1, 2, 3, 7])
    >>> central_sentence(tokens, np.array([1, 7, 13]))
    (1, 7)
    """
    best, span = 0.0, None
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if MIN_SENTENCE <= end - start <= MAX_SENTENCE:
            own = set(tokens[start:end].tolist())
            others = {*tokens[:start].tolist(), *tokens[end:].tolist()}
            score = 2 * len(own & others) / (len(own) + max(1, len(others)))
            if score >= best:
                best, span = score, (start, end)
    return span
