"""Labels of words <-> labels of the pieces that a tokenizer makes of them.

    word        Ada      Lovelace                  sleeps
    label       B-PER    I-PER                     O
    pieces      ada      love    ##lace            sleeps
    first       B-PER    I-PER   -                 O           "-": ignored in the loss
    last        B-PER    -       I-PER             O
    all         B-PER    I-PER   I-PER             O

Under `all` the further pieces of a word that begins an entity continue it: a name "Lovelace" alone,
B-PER, has the pieces B-PER I-PER.

The way back makes one line of scores of the lines of a word's pieces, so that every word gets
exactly one label:

    first, last    of its first or last piece
    mean           the mean of the pieces' log-probabilities
    majority       a vote of the pieces, each for its likeliest label; the mean settles a draw

A word of which the tokenizer leaves nothing (an empty string, a control character) has no evidence:
the same score for every label.

Dimensions: P pieces of a text or window, W words, C labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

STRATEGIES = ("first", "all", "last")  # which pieces of a word are labelled in training
WAYS_BACK = ("first", "last", "majority", "mean")
IGNORE = -100  # the label that the loss leaves out; torch's own

Span = tuple[int, int]

# Abbreviations with dots; the 's of a possessive; words with what holds them together; one sign.
WORD = re.compile(
    r"(?:[^\W\d_]\.)+(?=\W|$)"
    r"|['’][sS]\b"
    r"|[\w\u0300-\u036f]+(?:(?!['’][sS]\b)[-.,'’&/@][\w\u0300-\u036f]+)*"
    r"|\S"
)


def split_words(text: str) -> list[Span]:
    """(start, end) of the words in raw text, punctuation marks being words of their own.

    >>> text = "Dr. O'Neill's U.S. visa cost $1,200."
    >>> [text[start:end] for start, end in split_words(text)]
    ['Dr', '.', "O'Neill", "'s", 'U.S.', 'visa', 'cost', '$', '1,200', '.']
    """
    return [match.span() for match in WORD.finditer(text)]


def piece_spans(word_ids: Sequence[int | None], count: int) -> list[Span]:
    """(start, end) of each word among the pieces; of a word without any, (k, k) where it would be.

    >>> piece_spans([0, 1, 1, 3], count=4)
    [(0, 1), (1, 3), (3, 3), (3, 4)]
    """
    spans: list[Span] = []
    position = 0
    for word in range(count):
        start = position
        while position < len(word_ids) and word_ids[position] == word:
            position += 1
        spans.append((start, position))
    return spans


def label_pieces(
    spans: Sequence[Span], labels: Sequence[int], inside: Sequence[int], strategy: str, length: int
) -> list[int]:
    """The label of each of `length` pieces, `IGNORE` where it has none.

    spans: of the words among the pieces.  labels: of the words.  inside: label -> the one that
    continues it (of B-PER: I-PER; of O: O).

    The example above, with O, B-PER, I-PER as 0, 1, 2:

    >>> spans, labels, inside = [(0, 1), (1, 3), (3, 4)], [1, 2, 0], [0, 2, 2]
    >>> [label_pieces(spans, labels, inside, how, 4) for how in ("first", "last", "all")]
    [[1, 2, -100, 0], [1, -100, 2, 0], [1, 2, 2, 0]]
    """
    pieces = [IGNORE] * length
    for (start, end), label in zip(spans, labels, strict=True):
        if start == end:
            continue
        if strategy == "all":
            pieces[start:end] = [label] + [inside[label]] * (end - start - 1)
        else:
            pieces[start if strategy == "first" else end - 1] = label
    return pieces


def label_words(
    scores: np.ndarray, spans: Sequence[Span], inside: Sequence[int], way: str, strategy: str
) -> np.ndarray:
    """Log-probabilities of the pieces (P, C) -> of the words (W, C), by one of `WAYS_BACK`.

    Where all pieces were labelled in training, a further piece tells the type of its word, but says
    I- whether or not the word begins an entity.  So with strategy "all" a further piece says how
    probable PER is, and the first piece how much of that is B-PER and how much I-PER.
    """
    starts = np.array([start for start, end in spans if start < end], dtype=np.int64)
    ends = np.array([end for start, end in spans if start < end], dtype=np.int64)
    there = np.array([start < end for start, end in spans], dtype=bool)
    labels = scores.shape[1]
    out = np.full((len(spans), labels), -np.log(labels), dtype=np.float64)
    if not there.any():
        return out
    scores = scores.astype(np.float64)
    if strategy == "all":
        scores = _told_by_first(scores, starts, ends, inside)
    if way in ("first", "last"):
        out[there] = scores[starts if way == "first" else ends - 1]
        return out
    mean = _log_normalised(_span_means(scores, starts, ends))  # (W, C)
    if way == "majority":
        votes = _span_means(np.eye(labels)[scores.argmax(-1)], starts, ends)
        # The mean has a say of less than half a vote.
        weight = 0.49 / (ends - starts)[:, None]
        mean = np.log((1 - weight) * votes + weight * np.exp(mean) + 1e-12)
    out[there] = mean
    return out


def _told_by_first(
    scores: np.ndarray, starts: np.ndarray, ends: np.ndarray, inside: Sequence[int]
) -> np.ndarray:
    """Further pieces' probability of a type, shared out between B- and I- as by the first piece."""
    shared = scores.copy()
    pieces = np.concatenate([np.arange(s + 1, e) for s, e in zip(starts, ends, strict=True)])
    firsts = np.repeat(starts, ends - starts - 1)
    for begins, continues in enumerate(inside):
        if begins != continues:
            either = np.logaddexp(scores[pieces, begins], scores[pieces, continues])
            first = scores[firsts][:, [begins, continues]]
            first = first - np.logaddexp.reduce(first, axis=1, keepdims=True)
            shared[pieces, begins] = either + first[:, 0]
            shared[pieces, continues] = either + first[:, 1]
    return shared


def _span_means(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    sums = np.concatenate([np.zeros((1, rows.shape[1])), rows.cumsum(0)])
    return (sums[ends] - sums[starts]) / (ends - starts)[:, None]


def _log_normalised(scores: np.ndarray) -> np.ndarray:
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def best_path(scores: np.ndarray, start: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The best sequence of labels among those that are allowed (Viterbi 1967): (W, C) -> (W,).

    start: (C,) labels that may come first.  step: (C, C) whether a label may follow another, rows
    first.  Every label must be followed by at least one; each score finite.

    The likeliest labels one by one may be O I-PER; allowed is then the better of O O and B-PER
    I-PER:

    >>> log = np.log([[0.5, 0.4, 0.1], [0.2, 0.1, 0.7]])  # O, B-PER, I-PER
    >>> start = np.array([True, True, False])
    >>> step = np.array([[True, True, False], [True, True, True], [True, True, True]])
    >>> best_path(log, start, step).tolist()
    [1, 2]
    """
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    barred = np.where(step, 0.0, -np.inf)
    total = scores[0] + np.where(start, 0.0, -np.inf)
    came_from = np.zeros(scores.shape, dtype=np.int64)
    for i in range(1, len(scores)):
        paths = total[:, None] + barred  # (C before, C now)
        came_from[i] = paths.argmax(0)
        total = paths.max(0) + scores[i]
    path = np.zeros(len(scores), dtype=np.int64)
    path[-1] = total.argmax()
    for i in range(len(scores) - 1, 0, -1):
        path[i - 1] = came_from[i, path[i]]
    return path
