"""Scores for answers cut out of a text: exact match and F1 of the words they share, in percent.

Predictions are texts by question id, an empty text meaning "no answer"; the truth is the `data`
list of a SQuAD file.  Before two answers are compared both are made plain:

    "The Norman  Conquest!"  ->  "norman conquest"       case, punctuation, articles, extra space

    predicted   in the 10th century        true   10th and 11th centuries
    plain       in 10th century            plain  10th and 11th centuries
    shared 1 of 3 and of 4:  precision 1/3, recall 1/4, F1 2/7

Of several true answers the best counts.  The data says which of the official programs is meant:
that of v1.1 (Rajpurkar et al. 2016), or, where questions have "is_impossible", that of v2.0
(Rajpurkar, Jia and Liang 2018), where "no answer" is right or wrong like any other.

Whether a model says "no answer" is decided by a margin: how much it prefers none to its best span.
A question is answered where the margin is not above a threshold; `best_threshold` finds the best.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@lru_cache(maxsize=1 << 16)
def plain(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and extra space.

    >>> plain("The Norman  Conquest!"), plain("a"), plain("U.S.")
    ('norman conquest', '', 'us')
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """1 if both are the same once made plain, else 0."""
    return float(plain(prediction) == plain(reference))


def word_f1(prediction: str, reference: str, both_empty: float = 1.0) -> float:
    """F1 of the words that two answers share, from 0 to 1.

    both_empty: the score of two answers of which nothing is left once made plain.

    >>> round(word_f1("in the 10th century", "10th and 11th centuries"), 4) == round(2 / 7, 4)
    True
    """
    ours, theirs = plain(prediction).split(), plain(reference).split()
    if not ours and not theirs:
        return both_empty
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


class Question(NamedTuple):
    """id: of the question.  answers: the true ones.  has_answer: there are some."""

    id: str
    answers: list[str]
    has_answer: bool


def squad(
    predictions: Mapping[str, str],
    data: Sequence[Mapping[str, Any]],
    no_answer_probs: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Exact match and F1 of a whole file, as the official programs print them.

    predictions: question id -> text.  data: the list under "data" in the file.
    no_answer_probs: question id -> how sure the model is that there is no answer; where it is above
        1 the prediction counts as empty, as in the official program.

    Returns exact, f1 (0 to 100) and total; for v2.0 also HasAns_exact, HasAns_f1, HasAns_total and
    NoAns_..., for each part that the data has; with `no_answer_probs` best_exact, best_f1 and the
    thresholds that give them, best_exact_thresh and best_f1_thresh.

    A question without a prediction counts as wrong, as in v1.1's program (that of v2.0 stops).

    >>> answers = [{"text": "10th and 11th centuries", "answer_start": 0}]
    >>> data = [{"paragraphs": [{"qas": [{"id": "q", "answers": answers}]}]}]
    >>> squad({"q": "in the 10th century"}, data)
    {'exact': 0.0, 'f1': 28.57142857142857, 'total': 1}
    """
    questions = list(_questions(data))
    if not questions:
        raise ValueError("the data holds no question, so there is nothing to score")
    second = any("is_impossible" in qa for qa in _entries(data))  # v2.0
    scores: dict[str, tuple[float, float]] = {}
    for question in questions:
        text = predictions.get(question.id)
        scores[question.id] = (0.0, 0.0) if text is None else _score(text, question, second)

    decided = dict(scores)
    if no_answer_probs is not None:
        for question in questions:
            if question.id in predictions and no_answer_probs.get(question.id, 0.0) > 1.0:
                decided[question.id] = (float(not question.has_answer),) * 2
    result = _means("", decided, questions)
    if second:
        result |= _means("HasAns_", decided, [q for q in questions if q.has_answer])
        result |= _means("NoAns_", decided, [q for q in questions if not q.has_answer])
    if no_answer_probs is not None:
        asked = [q for q in questions if q.id in predictions and q.id in no_answer_probs]
        margins = [no_answer_probs[q.id] for q in asked]
        base = sum(not q.has_answer for q in questions if q.id in predictions)
        for i, name in enumerate(("exact", "f1")):
            gains = [
                scores[q.id][i] if q.has_answer else -float(bool(predictions[q.id])) for q in asked
            ]
            best, threshold = _official_threshold(margins, gains, base)
            result[f"best_{name}"] = 100.0 * best / len(questions)
            result[f"best_{name}_thresh"] = threshold
    return result


def best_threshold(margins: Sequence[float], gains: Sequence[float]) -> float:
    """The threshold under which answering gains most: exact, by one sort over all margins.

    margins: how much each question's "no answer" is preferred to its best span.
    gains: what answering it adds to the score (0 to 1 where there is an answer, -1 where there is
        none, since saying so would have counted 1).

    A question is answered where its margin is not above the threshold.  The threshold lies halfway
    between two margins, so that equal margins are never torn apart and no rounding matters; with
    several equally good ones the lowest counts.  Margins may be infinite: such questions cannot be
    answered.

    Answering the first two gains 1.5, all three only 0.5:

    >>> best_threshold([-3.0, 1.0, 2.0], [1.0, 0.5, -1.0])
    1.5
    """
    pairs = sorted(p for p in zip(margins, gains, strict=True) if math.isfinite(p[0]))
    if not pairs:
        return 0.0
    best, threshold, total = 0.0, pairs[0][0] - 1.0, 0.0
    for i, (margin, gain) in enumerate(pairs):
        total += gain
        following = pairs[i + 1][0] if i + 1 < len(pairs) else margin + 2.0
        if total > best and following > margin:
            best, threshold = total, (margin + following) / 2
    return threshold


def _official_threshold(
    margins: Sequence[float], gains: Sequence[float], base: float
) -> tuple[float, float]:
    """Best score and its threshold as the official program finds them.

    Unlike `best_threshold` it tries a threshold after each question, also between equal margins,
    and names the margin itself; 0 if nothing is better than answering nothing.
    """
    best, threshold, total = base, 0.0, base
    for i in sorted(range(len(margins)), key=lambda i: margins[i]):
        total += gains[i]
        if total > best:
            best, threshold = total, margins[i]
    return best, threshold


def answer_gains(
    spans: Mapping[str, str], data: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[float, float]]:
    """What answering each question with its span adds to the sums of exact match and F1 over saying
    "no answer": what a threshold is tuned on.  By v2.0's rules."""
    gains = {}
    for question in _questions(data):
        exact, f1 = _score(spans[question.id], question, second=True)
        gains[question.id] = (exact, f1) if question.has_answer else (exact - 1.0, f1 - 1.0)
    return gains


def _score(prediction: str, question: Question, second: bool) -> tuple[float, float]:
    """The best over the true answers: (exact match, F1)."""
    # v2.0 passes over true answers of which nothing is left; v1.1 gives two such answers F1 0.
    answers = [a for a in question.answers if plain(a)] if second else question.answers
    answers = answers or [""]
    return (
        max(exact_match(prediction, answer) for answer in answers),
        max(word_f1(prediction, answer, both_empty=float(second)) for answer in answers),
    )


def _means(
    prefix: str, scores: Mapping[str, tuple[float, float]], questions: Sequence[Question]
) -> dict[str, float]:
    if not questions:
        return {}
    exact, f1 = (100.0 * sum(scores[q.id][i] for q in questions) / len(questions) for i in (0, 1))
    return {f"{prefix}exact": exact, f"{prefix}f1": f1, f"{prefix}total": len(questions)}


def _entries(data: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for article in data:
        for paragraph in article["paragraphs"]:
            yield from paragraph["qas"]


def _questions(data: Sequence[Mapping[str, Any]]) -> Iterator[Question]:
    for qa in _entries(data):
        answers = [answer["text"] for answer in qa["answers"]]
        yield Question(qa["id"], answers, bool(answers))
