"""Word labels <-> subword labels: `align_labels` for training, `aggregate_subwords` for prediction.

    word            Ada      Lovelace                  sleeps
    label           B-PER    I-PER                     O
    subword tokens  ada      love    ##lace            sleeps
    first           B-PER    I-PER   -                 O           "-": ignored by the loss
    last            B-PER    -       I-PER             O
    all             B-PER    I-PER   I-PER             O

Under `all`, the later subword tokens of a word that begins an entity continue it: the one-word name
"Lovelace", B-PER, has the subword labels B-PER I-PER.

For prediction, the scores of a word's subword tokens are aggregated, so that every word gets
exactly one label.  The first three strategies are those of `transformers`' token-classification
pipeline:

    first       the scores of the first subword token
    average     the mean of the log-probabilities (`transformers` averages the probabilities)
    max         the scores of the subword token with the highest probability of any label
    last        the scores of the last subword token
    majority    a vote, one for the likeliest label of each subword token; the average breaks ties

A word without subword tokens (an empty string, a control character) gets the same score for every
label.

Dimensions: P subword tokens of a text or window, W words, C labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from minift.data.batching import IGNORE_INDEX

LABEL_STRATEGIES = ("first", "all", "last")  # the subword tokens that are labelled in training
AGGREGATION_STRATEGIES = ("first", "average", "max", "majority", "last")

# Abbreviations with dots; the 's of a possessive; words joined by signs as in O'Neill; one sign.
WORD = re.compile(
    r"(?:[^\W\d_]\.)+(?=\W|$)"
    r"|['’][sS]\b"
    r"|[\w\u0300-\u036f]+(?:(?!['’][sS]\b)[-.,'’&/@][\w\u0300-\u036f]+)*"
    r"|\S"
)


def split_words(text: str) -> list[tuple[int, int]]:
    """(start, end) of the words in raw text, punctuation marks being words of their own.

    >>> text = "Dr. O'Neill's U.S. visa cost $1,200."
    >>> [text[start:end] for start, end in split_words(text)]
    ['Dr', '.', "O'Neill", "'s", 'U.S.', 'visa', 'cost', '$', '1,200', '.']
    """
    return [match.span() for match in WORD.finditer(text)]


def subword_spans(word_ids: Sequence[int | None], num_words: int) -> list[tuple[int, int]]:
    """(start, end) of each word among the subword tokens; (k, k) for a word without any.

    >>> subword_spans([0, 1, 1, 3], num_words=4)
    [(0, 1), (1, 3), (3, 3), (3, 4)]
    """
    spans: list[tuple[int, int]] = []
    position = 0
    for word in range(num_words):
        start = position
        while position < len(word_ids) and word_ids[position] == word:
            position += 1
        spans.append((start, position))
    return spans


def align_labels(
    spans: Sequence[tuple[int, int]],
    labels: Sequence[int],
    inside: Sequence[int],
    strategy: str,
    length: int,
) -> list[int]:
    """The label of each of `length` subword tokens, `IGNORE_INDEX` where it has none.

    spans: (start, end) of each word among the subword tokens.  labels: of the words.
    inside: label -> the label that continues it (B-PER: I-PER; O: O).
    strategy: one of `LABEL_STRATEGIES`.

    The example above, with O, B-PER, I-PER as 0, 1, 2:

    >>> spans, labels, inside = [(0, 1), (1, 3), (3, 4)], [1, 2, 0], [0, 2, 2]
    >>> [align_labels(spans, labels, inside, how, 4) for how in ("first", "last", "all")]
    [[1, 2, -100, 0], [1, -100, 2, 0], [1, 2, 2, 0]]
    """
    aligned = [IGNORE_INDEX] * length
    for (start, end), label in zip(spans, labels, strict=True):
        if start == end:
            continue
        if strategy == "all":
            aligned[start:end] = [label] + [inside[label]] * (end - start - 1)
        else:
            aligned[start if strategy == "first" else end - 1] = label
    return aligned


def aggregate_subwords(
    scores: np.ndarray,
    spans: Sequence[tuple[int, int]],
    inside: Sequence[int],
    aggregation: str,
    label_strategy: str,
) -> np.ndarray:
    """Log-probabilities of the subword tokens (P, C) -> of the words (W, C).

    aggregation: one of `AGGREGATION_STRATEGIES`.

    With label_strategy "all", a later subword token was trained to say I- whether or not its word
    begins an entity.  It then only tells how probable the type is; the first subword token tells
    how that is divided between B- and I-.
    """
    starts = np.array([start for start, end in spans if start < end], dtype=np.int64)
    ends = np.array([end for start, end in spans if start < end], dtype=np.int64)
    has_tokens = np.array([start < end for start, end in spans], dtype=bool)
    num_labels = scores.shape[1]
    out = np.full((len(spans), num_labels), -np.log(num_labels), dtype=np.float64)
    if not has_tokens.any():
        return out
    scores = scores.astype(np.float64)
    if label_strategy == "all":
        scores = _divide_as_first(scores, starts, ends, inside)
    if aggregation in ("first", "last"):
        out[has_tokens] = scores[starts if aggregation == "first" else ends - 1]
        return out
    if aggregation == "max":
        best = scores.max(-1)  # (P,)
        pairs = zip(starts, ends, strict=True)
        out[has_tokens] = scores[[start + best[start:end].argmax() for start, end in pairs]]
        return out
    average = _log_normalize(_span_means(scores, starts, ends))  # (W, C)
    if aggregation == "majority":
        votes = _span_means(np.eye(num_labels)[scores.argmax(-1)], starts, ends)
        # The average weighs less than half a vote.
        weight = 0.49 / (ends - starts)[:, None]
        average = np.log((1 - weight) * votes + weight * np.exp(average) + 1e-12)
    out[has_tokens] = average
    return out


def _divide_as_first(
    scores: np.ndarray, starts: np.ndarray, ends: np.ndarray, inside: Sequence[int]
) -> np.ndarray:
    """Divide a later subword token's probability of a type between B- and I- as the first does."""
    divided = scores.copy()
    later = np.concatenate([np.arange(s + 1, e) for s, e in zip(starts, ends, strict=True)])
    first_of = np.repeat(starts, ends - starts - 1)
    for begins, continues in enumerate(inside):
        if begins != continues:
            either = np.logaddexp(scores[later, begins], scores[later, continues])
            first = scores[first_of][:, [begins, continues]]
            first = first - np.logaddexp.reduce(first, axis=1, keepdims=True)
            divided[later, begins] = either + first[:, 0]
            divided[later, continues] = either + first[:, 1]
    return divided


def _span_means(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The mean of the rows of each span: (P, C) -> (W, C)."""
    sums = np.concatenate([np.zeros((1, rows.shape[1])), rows.cumsum(0)])
    return (sums[ends] - sums[starts]) / (ends - starts)[:, None]


def _log_normalize(scores: np.ndarray) -> np.ndarray:
    """Log-scores -> log-probabilities: (W, C) -> (W, C)."""
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def viterbi_decode(scores: np.ndarray, may_start: np.ndarray, may_follow: np.ndarray) -> np.ndarray:
    """The best allowed sequence of labels (Viterbi 1967): (W, C) -> (W,).

    may_start: (C,) whether a label may come first.
    may_follow: (C, C) whether the label of the column may follow that of the row.  Every label must
        allow at least one; each score must be finite.

    The likeliest labels one by one may be O I-PER.  Allowed is then the better of O O and B-PER
    I-PER:

    >>> log = np.log([[0.5, 0.4, 0.1], [0.2, 0.1, 0.7]])  # O, B-PER, I-PER
    >>> may_start = np.array([True, True, False])
    >>> may_follow = np.array([[True, True, False], [True, True, True], [True, True, True]])
    >>> viterbi_decode(log, may_start, may_follow).tolist()
    [1, 2]
    """
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    transition = np.where(may_follow, 0.0, -np.inf)
    total = scores[0] + np.where(may_start, 0.0, -np.inf)
    came_from = np.zeros(scores.shape, dtype=np.int64)
    for i in range(1, len(scores)):
        paths = total[:, None] + transition  # (C before, C now)
        came_from[i] = paths.argmax(0)
        total = paths.max(0) + scores[i]
    path = np.zeros(len(scores), dtype=np.int64)
    path[-1] = total.argmax()
    for i in range(len(scores) - 1, 0, -1):
        path[i - 1] = came_from[i, path[i]]
    return path
