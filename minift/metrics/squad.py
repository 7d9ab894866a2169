"""Scores for extractive question answering: exact match and F1 over words, in percent.

Predictions are texts by question id, and an empty text means "no answer".  References are the
`data` list of a SQuAD file.  Two answers are normalised before they are compared:

    "The Norman  Conquest!"  ->  "norman conquest"       case, punctuation, articles, extra space

    predicted   in the 10th century        reference   10th and 11th centuries
    normalised  in 10th century            normalised  10th and 11th centuries
    shared 1 of 3 and of 4:  precision 1/3, recall 1/4, F1 2/7

Of several reference answers, the one with the best score counts.  The rules are those of the
official program for v1.1 (Rajpurkar et al. 2016), or, if the questions have "is_impossible", of
the program for v2.0 (Rajpurkar, Jia and Liang 2018), in which "no answer" is an answer like others.

The margin of a question is the score of "no answer" minus the score of the best span.  The null
threshold is the highest margin at which a question is answered; `best_threshold` finds it.
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
def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and extra space.

    >>> normalize_answer("The Norman  Conquest!"), normalize_answer("a"), normalize_answer("U.S.")
    ('norman conquest', '', 'us')
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """1 if both are equal after normalisation, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def word_f1(prediction: str, reference: str, both_empty: float = 1.0) -> float:
    """F1 of the words that two answers share, from 0 to 1.

    both_empty: the score of two answers that are empty after normalisation.

    >>> round(word_f1("in the 10th century", "10th and 11th centuries"), 4) == round(2 / 7, 4)
    True
    """
    ours, theirs = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not ours and not theirs:
        return both_empty
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


class Question(NamedTuple):
    """A question's id and reference answers; has_answer: whether it has any."""

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
    no_answer_probs: question id -> probability, or margin, of "no answer"; above 1 the prediction
        counts as empty, as in the official program.  Where several are equal, best_exact and
        best_f1 depend on their order, as in the official program.

    Returns exact, f1 (0 to 100) and total; for v2.0 also HasAns_exact, HasAns_f1, HasAns_total and
    NoAns_..., if the data has such questions; with `no_answer_probs` also best_exact, best_f1 and
    the thresholds that reach them, best_exact_thresh and best_f1_thresh.

    A question without a prediction counts as wrong, as in v1.1's program (v2.0's program stops).
    Raises `ValueError` for data without a question.

    >>> answers = [{"text": "10th and 11th centuries", "answer_start": 0}]
    >>> data = [{"paragraphs": [{"qas": [{"id": "q", "answers": answers}]}]}]
    >>> squad({"q": "in the 10th century"}, data)
    {'exact': 0.0, 'f1': 28.57142857142857, 'total': 1}
    """
    questions = list(_questions(data))
    if not questions:
        raise ValueError("the data holds no question, so there is nothing to score")
    version_2 = any("is_impossible" in qa for qa in _entries(data))
    scores: dict[str, tuple[float, float]] = {}
    for question in questions:
        text = predictions.get(question.id)
        scores[question.id] = (0.0, 0.0) if text is None else _score(text, question, version_2)

    decided = dict(scores)
    if no_answer_probs is not None:
        for question in questions:
            if question.id in predictions and no_answer_probs.get(question.id, 0.0) > 1.0:
                decided[question.id] = (float(not question.has_answer),) * 2
    result = _means("", decided, questions)
    if version_2:
        result |= _means("HasAns_", decided, [q for q in questions if q.has_answer])
        result |= _means("NoAns_", decided, [q for q in questions if not q.has_answer])
    if no_answer_probs is not None:
        by_id = {question.id: question for question in questions if question.id in predictions}
        # Equal margins stay in the order of `no_answer_probs`, as in the official program.
        scored = [by_id[i] for i in no_answer_probs if i in by_id]
        margins = [no_answer_probs[q.id] for q in scored]
        base = sum(not q.has_answer for q in questions if q.id in predictions)
        for i, name in enumerate(("exact", "f1")):
            gains = [
                scores[q.id][i] if q.has_answer else -float(bool(predictions[q.id])) for q in scored
            ]
            best, threshold = _official_threshold(margins, gains, base)
            result[f"best_{name}"] = 100.0 * best / len(questions)
            result[f"best_{name}_thresh"] = threshold
    return result


def best_threshold(margins: Sequence[float], gains: Sequence[float]) -> float:
    """The null threshold with the greatest total gain; exact, by one sort of all margins.

    margins: of each question, the score of "no answer" minus the score of the best span.
    gains: of each question, the change of the score if it is answered: 0 to 1 if it has an answer;
        -1 if it has none, because "no answer" would have counted 1.

    A question is answered if its margin is not above the null threshold, which lies halfway
    between two margins, so that equal margins are on one side and rounding has no effect.  Of
    several equally good thresholds the lowest is returned.  A question with an infinite margin is
    never answered.

    Answering the first two questions gains 1.5, answering all three only 0.5:

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
    """The best score and its threshold, as the official program computes them.

    Unlike `best_threshold` it tries a threshold after each question, also between equal margins,
    and returns a margin as threshold; 0 if it is best to answer no question.  So of equal margins,
    the order decides, and no threshold may reach the score.  base: the score if no
    question is answered.
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
    """Gains in exact match and F1 of answering each question with its span, over "no answer".

    By the rules of v2.0.  The null threshold is tuned on these gains (`best_threshold`).
    """
    gains = {}
    for question in _questions(data):
        exact, f1 = _score(spans[question.id], question, version_2=True)
        gains[question.id] = (exact, f1) if question.has_answer else (exact - 1.0, f1 - 1.0)
    return gains


def _score(prediction: str, question: Question, version_2: bool) -> tuple[float, float]:
    """The best (exact match, F1) over the reference answers."""
    # v2.0 ignores reference answers that are empty after normalisation; v1.1 gives two empty
    # answers F1 0.
    answers = question.answers
    if version_2:
        answers = [answer for answer in answers if normalize_answer(answer)]
    answers = answers or [""]
    return (
        max(exact_match(prediction, answer) for answer in answers),
        max(word_f1(prediction, answer, both_empty=float(version_2)) for answer in answers),
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
