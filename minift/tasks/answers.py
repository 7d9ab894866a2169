"""Answers: what a model's best spans say, whether "no answer" wins, how right that is, how it is
shown.

    spans        Rollo 9.1    their leader Rollo 7.4    ...        best first, sums of two logits
    null score   6.0                                               what "no answer" scores
    margin       6.0 - 9.1 = -3.1

A question is answered where its margin is not above a threshold, so the same predictions can be
scored at zero, at the threshold that dev decided, at any other.  For people:

    who led the raiders?
      Rollo  0.87  226-231                          answer, probability, characters of the context
      ... who, under their leader [Rollo], agreed to ...
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minift import metrics
from minift.data.squad import QuestionRecord, as_squad
from minift.errors import visible

SENTENCE_END = re.compile(r"[.!?]['\"”’)\]]*\s+(?=[^\sa-z])|\n+")
WIDEST = 160  # characters shown before and after an answer


@dataclass(frozen=True)
class Candidate:
    """A span of the context, characters `start` to `end`, and the sum of its two logits."""

    text: str
    start: int
    end: int
    score: float
    probability: float = 0.0  # among the candidates and, where the model may say it, "no answer"


@dataclass(frozen=True)
class AnswerPrediction:
    """The best spans, best first, and the decision.

    null_score: what "no answer" scores; None where the model may not say it.
    null_probability: of "no answer" among the candidates.
    answered: whether the best span is given as the answer.
    """

    candidates: tuple[Candidate, ...]
    null_score: float | None
    null_probability: float
    answered: bool

    @property
    def span(self) -> str:
        """The best span's text, whatever the decision."""
        return self.candidates[0].text if self.candidates else ""

    @property
    def text(self) -> str:
        """The answer; empty for "no answer"."""
        return self.span if self.answered else ""

    @property
    def margin(self) -> float:
        """How much "no answer" is preferred to the best span; infinite if one of them is not."""
        if not self.candidates:
            return math.inf
        return -math.inf if self.null_score is None else self.null_score - self.candidates[0].score

    def at(self, threshold: float | None) -> AnswerPrediction:
        """The same with the decision that a threshold makes; None, not yet tuned, is 0."""
        return replace(self, answered=bool(self.candidates) and self.margin <= (threshold or 0.0))


def decide(
    candidates: Sequence[Candidate], null: float, no_answer: bool, n_best: int
) -> AnswerPrediction:
    """The best spans with different texts and how probable they are; answered as at zero.

    candidates: of all windows.  null: the score of "no answer".  no_answer: the model may say so.

    >>> spans = [Candidate("b", 4, 5, 1.0), Candidate("a", 0, 1, 2.0), Candidate("b", 2, 3, 1.5)]
    >>> prediction = decide(spans, null=1.8, no_answer=True, n_best=20)
    >>> [(c.text, c.start) for c in prediction.candidates], prediction.text
    ([('a', 0), ('b', 2)], 'a')
    """
    best: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: -c.score):
        best.setdefault(candidate.text, candidate)
    chosen = list(best.values())[:n_best]
    scores = np.array([c.score for c in chosen] + [null if no_answer else -math.inf])
    highest = scores[np.isfinite(scores)].max(initial=-math.inf)
    odds = np.nan_to_num(np.exp(scores - highest)) if np.isfinite(highest) else np.ones(len(scores))
    *shares, null_share = (odds / odds.sum()).tolist()
    prediction = AnswerPrediction(
        tuple(replace(c, probability=p) for c, p in zip(chosen, shares, strict=True)),
        null_score=null if no_answer else None,
        null_probability=null_share,
        answered=False,
    )
    return prediction.at(None)


def score_answers(
    predictions: Sequence[AnswerPrediction],
    records: Sequence[QuestionRecord],
    threshold: float | None,
) -> dict[str, Any]:
    """SQuAD's scores at the threshold and, named so, at zero; all from 0 to 100.

    threshold: None has it tuned here, for the best F1; "null_threshold" says which it was.
    best_*: what the best threshold for these very questions would give.
    answerable_*: of the questions that have an answer, each answered with its best span: as v1.1.
    Where the model may not say "no answer" there is nothing to decide, and just one score.
    """
    data = as_squad(records)
    ids = [record.id for record in records]

    def at(value: float | None) -> dict[str, float]:
        texts = [p.at(value).text for p in predictions]
        return metrics.squad(dict(zip(ids, texts, strict=True)), data)

    if all(p.null_score is None for p in predictions):
        return at(None)
    spans = {i: p.span for i, p in zip(ids, predictions, strict=True)}
    gains = metrics.answer_gains(spans, data)
    margins = [p.margin for p in predictions]
    best = [metrics.best_threshold(margins, [gains[i][kind] for i in ids]) for kind in (0, 1)]
    threshold = best[1] if threshold is None else threshold
    zero = at(0.0)
    answerable = [record for record in records if record.answers]
    always = metrics.squad(spans, as_squad(answerable)) if answerable else {}
    return {
        **at(threshold),
        "null_threshold": threshold,
        "exact_at_zero": zero["exact"],
        "f1_at_zero": zero["f1"],
        "best_exact": at(best[0])["exact"],
        "best_exact_thresh": best[0],
        "best_f1": at(best[1])["f1"],
        "best_f1_thresh": best[1],
        **{f"answerable_{name}": always[name] for name in ("exact", "f1") if always},
    }


def explain_answers(
    predictions: Sequence[AnswerPrediction],
    records: Sequence[QuestionRecord],
    score: dict[str, Any],
) -> str:
    """How right, wrong and missing answers are shared out, and the surest of each kind."""
    threshold = score.get("null_threshold", 0.0)
    kinds: dict[str, list[tuple[float, str]]] = {
        kind: [] for kind in ("right", "partly", "wrong", "missed", "invented", "rightly none")
    }
    for prediction, record in zip(predictions, records, strict=True):
        text = prediction.at(threshold).text
        gold = [answer.text for answer in record.answers or ()]
        overlap = max((metrics.word_f1(text, answer) for answer in gold), default=0.0)
        if not gold:
            kind = "invented" if text else "rightly none"
        elif not text:
            kind = "missed"
        else:
            kind = "right" if overlap == 1 else "partly" if overlap else "wrong"
        line = f"{record.question:.100}  -> {text or '-':.60}  (true: {(gold or ['-'])[0]:.60})"
        sure = max(prediction.null_probability, *(c.probability for c in prediction.candidates), 0)
        kinds[kind].append((sure, " ".join(line.split())))
    lines = ["answers   " + ", ".join(f"{kind} {len(found)}" for kind, found in kinds.items())]
    if "null_threshold" in score:
        lines.append(
            f"no answer where its margin is above {threshold:.3f}: F1 {score['f1']:.2f}, exact "
            f"{score['exact']:.2f}; above zero: F1 {score['f1_at_zero']:.2f}, exact "
            f"{score['exact_at_zero']:.2f}"
        )
    for kind, found in kinds.items():
        surest = sorted(found, key=lambda pair: -pair[0])[:2]
        lines += [f"  {kind:12}  {line}" for _, line in surest]
    return "\n".join(lines)


def answer_row(prediction: AnswerPrediction, record: QuestionRecord) -> dict[str, Any]:
    """What predictions.*.jsonl and `predict.py --json` say of a question."""
    best = prediction.candidates[0] if prediction.answered else None
    return {
        "id": record.id,
        "question": record.question,
        "gold": None if record.answers is None else [answer.text for answer in record.answers],
        "predicted": prediction.text,
        "score": best.probability if best else prediction.null_probability,
        "start": best.start if best else None,
        "end": best.end if best else None,
        "sentence": in_sentence(record.context, best.start, best.end) if best else None,
        "best_span": prediction.span,
        "null_margin": finite(prediction.margin),
    }


def official_formats(
    predictions: Sequence[AnswerPrediction], records: Sequence[QuestionRecord]
) -> dict[str, Any]:
    """Name of a file -> what it holds: an answer for each id; the n best; the margins."""
    pairs = [(record.id, p) for record, p in zip(records, predictions, strict=True)]
    nbest = {}
    for i, p in pairs:
        nbest[i] = [dict(vars(candidate)) for candidate in p.candidates]
        if p.null_score is not None:
            null = {"text": "", "score": p.null_score, "probability": p.null_probability}
            nbest[i].append(null)
    return {
        "predictions": {i: p.text for i, p in pairs},
        "nbest_predictions": nbest,
        "null_odds": {i: finite(p.margin) for i, p in pairs},
    }


def finite(number: float) -> float | None:
    """The number as JSON can hold it."""
    return number if math.isfinite(number) else None


def in_sentence(text: str, start: int, end: int) -> dict[str, str]:
    """The sentence or sentences around characters `start` to `end`: before, answer, after.

    >>> in_sentence("It rained. Rollo came. He won.", 11, 16)
    {'before': '', 'answer': 'Rollo', 'after': ' came.'}
    """
    ends = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    first = max(e for e in ends if e <= start)
    last = min(e for e in ends if e >= end)
    return {
        "before": text[first:start].lstrip(),
        "answer": text[start:end],
        "after": text[end:last].rstrip(),
    }


def answer_lines(row: dict[str, Any], colour: bool) -> str:
    """One prediction, as `answer_row` gives it, in two or three lines."""
    question = visible(" ".join(row["question"].split()))
    if not row["predicted"]:
        closest = (
            f"  (closest: {visible(' '.join(row['best_span'].split()))})"
            if row["best_span"]
            else ""
        )
        return f"{question}\n  no answer  {row['score']:.2f}{closest}"
    before, answer, after = map(visible, row["sentence"].values())
    shown = f"\x1b[1;32m{answer}\x1b[0m" if colour else f"[{answer}]"
    if len(before) > WIDEST:
        before = "... " + before[-WIDEST:].partition(" ")[2]
    if len(after) > WIDEST:
        after = after[:WIDEST].rpartition(" ")[0] + " ..."
    around = " ".join(f"{before}{shown}{after}".split())
    answer = " ".join(answer.split())
    return f"{question}\n  {answer}  {row['score']:.2f}  {row['start']}-{row['end']}\n  {around}"
