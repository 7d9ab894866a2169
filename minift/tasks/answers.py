"""Answers of extractive question answering: the decision, the score, and how they are shown.

    spans        Rollo 9.1    their leader Rollo 7.4    ...        best first, sums of two logits
    null score   6.0                                               the score of "no answer"
    margin       6.0 - 9.1 = -3.1

The answer is the best span, or "no answer" if the margin is above the null threshold.  A null
threshold can be applied to finished predictions, so the same ones are scored at 0 and at the null
threshold tuned on dev.

Printed, a prediction is:

    who led the raiders?
      Rollo  0.87  226-231                          answer, probability, characters of the context
      ... who, under their leader [Rollo], agreed to ...
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minift import metrics
from minift.data.squad import QuestionRecord, as_squad
from minift.tasks.display import Display, on_one_line, with_single_blanks
from minift.terminal import coloured, joined
from minift.text.sentences import sentence_starts

NULL = 0  # position of [CLS], which means "no answer"
MAX_CONTEXT = 160  # maximum number of characters printed before and after an answer
MAX_WORD = 30  # characters; in a longer run without blanks, text is cut anywhere


@dataclass(frozen=True)
class Candidate:
    """A span of the context, in characters, and the sum of its two logits."""

    text: str
    start: int
    end: int
    score: float
    probability: float = 0.0  # among all candidates, and "no answer" if it may be predicted


@dataclass(frozen=True)
class AnswerPrediction:
    """The best spans, best first, and the decision.

    null_score: the score of "no answer"; None if it may not be predicted.
    null_probability: of "no answer", beside the candidates' probabilities.
    answered: the prediction is the best span, not "no answer".
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
        """Null score less the best span's score; inf without a span, -inf without a null score."""
        if not self.candidates:
            return math.inf
        return -math.inf if self.null_score is None else self.null_score - self.candidates[0].score

    def with_threshold(self, threshold: float | None) -> AnswerPrediction:
        """The same prediction, decided at a null threshold.  None: not yet tuned, 0."""
        return replace(self, answered=bool(self.candidates) and self.margin <= (threshold or 0.0))


def decide(
    candidates: Sequence[Candidate], null: float, no_answer: bool, n_best_size: int
) -> AnswerPrediction:
    """The best spans with different texts, and their probabilities; decided at null threshold 0.

    candidates: of all windows.  null: the null score.  no_answer: "no answer" may be predicted.

    >>> spans = [Candidate("b", 4, 5, 1.0), Candidate("a", 0, 1, 2.0), Candidate("b", 2, 3, 1.5)]
    >>> prediction = decide(spans, null=1.8, no_answer=True, n_best_size=20)
    >>> [(c.text, c.start) for c in prediction.candidates], prediction.text
    ([('a', 0), ('b', 2)], 'a')
    """
    best: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: -c.score):
        best.setdefault(candidate.text, candidate)
    chosen = list(best.values())[:n_best_size]
    scores = np.array([c.score for c in chosen] + [null if no_answer else -math.inf])
    highest = scores[np.isfinite(scores)].max(initial=-math.inf)
    odds = np.nan_to_num(np.exp(scores - highest)) if np.isfinite(highest) else np.ones(len(scores))
    *probabilities, null_probability = (odds / odds.sum()).tolist()
    prediction = AnswerPrediction(
        tuple(replace(c, probability=p) for c, p in zip(chosen, probabilities, strict=True)),
        null_score=null if no_answer else None,
        null_probability=null_probability,
        answered=False,
    )
    return prediction.with_threshold(None)


def score_answers(
    predictions: Sequence[AnswerPrediction],
    records: Sequence[QuestionRecord],
    threshold: float | None,
) -> dict[str, Any]:
    """The scores of the official SQuAD script, from 0 to 100.

    threshold: the null threshold; None: tuned on these records for the best F1, or 0 if all of
        them have an answer, or none has.

    exact, f1, HasAns_*, NoAns_*: at the null threshold, which is "null_threshold".
    *_at_zero: at null threshold 0.
    best_*: at the best null threshold for these records, tuned for exact match and for F1.
    answerable_*: of the questions with an answer, all answered by the best span, as in SQuAD v1.1.

    If "no answer" may not be predicted, only the scores without a threshold are returned.
    """
    data = as_squad(records)
    ids = [record.id for record in records]

    def score_at(value: float | None) -> dict[str, float]:
        texts = [p.with_threshold(value).text for p in predictions]
        return metrics.squad(dict(zip(ids, texts, strict=True)), data)

    if all(p.null_score is None for p in predictions):
        return score_at(None)
    both_kinds = len({bool(record.answers) for record in records}) == 2
    spans = {i: p.span for i, p in zip(ids, predictions, strict=True)}
    gains = metrics.answer_gains(spans, data)
    margins = [p.margin for p in predictions]
    best = [metrics.best_threshold(margins, [gains[i][kind] for i in ids]) for kind in (0, 1)]
    if threshold is None:
        # For one kind of questions the best is to answer always, or never: no rule for new ones.
        threshold = best[1] if both_kinds else 0.0
    zero = score_at(0.0)
    answerable = [record for record in records if record.answers]
    answered = metrics.squad(spans, as_squad(answerable)) if answerable else {}
    return {
        **score_at(threshold),
        "null_threshold": threshold,
        "exact_at_zero": zero["exact"],
        "f1_at_zero": zero["f1"],
        "best_exact": score_at(best[0])["exact"],
        "best_exact_thresh": best[0],
        "best_f1": score_at(best[1])["f1"],
        "best_f1_thresh": best[1],
        **{f"answerable_{name}": answered[name] for name in ("exact", "f1") if answered},
    }


@dataclass(frozen=True)
class AnswerDisplay(Display):
    """Questions with their answers; see `Display`."""

    def describe(self, records: Sequence[QuestionRecord], features: Sequence[Any]) -> str:
        first, feature = records[0], features[0]
        answers = dict.fromkeys(on_one_line(answer.text) for answer in first.answers or ())
        num_windows = np.bincount([f.record for f in features], minlength=len(records))
        found = {f.record for f in features if f.answer not in (None, (NULL, NULL))}
        answerable = [i for i, record in enumerate(records) if record.answers]
        lost = len(set(answerable) - found)
        null = sum(f.answer == (NULL, NULL) for f in features)
        long = int((num_windows > 1).sum())
        label = "no answer"
        if feature.answer not in (None, (NULL, NULL)):
            first_token, last_token = feature.answer
            answer = self.tokens(feature.input_ids[first_token : last_token + 1])
            label = f"tokens {first_token} to {last_token}: {answer}"
        lines = [
            f"first record ({first.where})",
            f"  question  {on_one_line(first.question)}",
            f"  context   {' '.join(first.context.split()):.200}",
            f"  answers   {' | '.join(answers) or '-'}",
            f"  tokens    {self.tokens(feature.input_ids):.400}",
            f"  label     {label}",
            f"questions   {len(records)}, of which {len(records) - len(answerable)} have no answer",
            f"answers     those of {lost} questions are in no window whole",
            f"windows     {len(features)} of at most {self.task.max_length} tokens; {null} are "
            f"labelled 'no answer' (--negative-windows {self.task.options.negative_windows})",
            f"length      {long} questions have several windows, nothing is truncated",
        ]
        return "\n".join(lines)

    def decided(self, predictions: Sequence[AnswerPrediction]) -> list[AnswerPrediction]:
        """The predictions, decided at the task's null threshold."""
        return [p.with_threshold(self.task.null_threshold) for p in predictions]

    def format_report(
        self,
        predictions: Sequence[AnswerPrediction],
        records: Sequence[QuestionRecord],
        score: dict[str, Any],
    ) -> str:
        """How many answers are correct, wrong or missing, and the most confident of each kind.

        correct, partial, wrong: F1 of the words 1, between, 0.  missed: "no answer" is wrong.
        spurious: the question has no answer.  correctly unanswered: "no answer" is correct.
        """
        threshold = score.get("null_threshold", 0.0)
        names = ("correct", "partial", "wrong", "missed", "spurious", "correctly unanswered")
        kinds: dict[str, list[tuple[float, str]]] = {kind: [] for kind in names}
        for prediction, record in zip(predictions, records, strict=True):
            text = prediction.with_threshold(threshold).text
            gold = [answer.text for answer in record.answers or ()]
            overlap = max((metrics.word_f1(text, answer) for answer in gold), default=0.0)
            if not gold:
                kind = "spurious" if text else "correctly unanswered"
            elif not text:
                kind = "missed"
            else:
                kind = "correct" if overlap == 1 else "partial" if overlap else "wrong"
            line = f"{record.question:.100}  -> {text or '-':.60}  (true: {(gold or ['-'])[0]:.60})"
            probabilities = [c.probability for c in prediction.candidates]
            confidence = max(prediction.null_probability, *probabilities, 0)
            kinds[kind].append((confidence, on_one_line(line)))
        lines = ["answers   " + ", ".join(f"{kind} {len(found)}" for kind, found in kinds.items())]
        if "null_threshold" in score:
            lines.append(
                f"'no answer' if the margin is above {threshold:.3f}: F1 {score['f1']:.2f}, exact "
                f"{score['exact']:.2f}; if above 0: F1 {score['f1_at_zero']:.2f}, exact "
                f"{score['exact_at_zero']:.2f}"
            )
        for kind, found in kinds.items():
            most_confident = sorted(found, key=lambda pair: -pair[0])[:2]
            lines += [f"  {kind:12}  {line}" for _, line in most_confident]
        return "\n".join(lines)

    def to_rows(
        self, predictions: Sequence[AnswerPrediction], records: Sequence[QuestionRecord]
    ) -> list[dict[str, Any]]:
        pairs = zip(self.decided(predictions), records, strict=True)
        return [answer_row(prediction, record) for prediction, record in pairs]

    def to_lines(
        self,
        predictions: Sequence[AnswerPrediction],
        records: Sequence[QuestionRecord],
        colour: bool = False,
    ) -> list[str]:
        return [answer_lines(row, colour) for row in self.to_rows(predictions, records)]

    def exports(
        self, predictions: Sequence[AnswerPrediction], records: Sequence[QuestionRecord]
    ) -> dict[str, Any]:
        """Files of the official SQuAD script: name -> answers, n best spans, or margins, by id."""
        decided = zip(records, self.decided(predictions), strict=True)
        pairs = [(record.id, p) for record, p in decided]
        nbest = {}
        for i, p in pairs:
            nbest[i] = [dict(vars(candidate)) for candidate in p.candidates]
            if p.null_score is not None:
                null = {"text": "", "score": p.null_score, "probability": p.null_probability}
                nbest[i].append(null)
        return {
            "predictions": {i: p.text for i, p in pairs},
            "nbest_predictions": nbest,
            "null_odds": {i: finite_or_none(p.margin) for i, p in pairs},
        }


def answer_row(prediction: AnswerPrediction, record: QuestionRecord) -> dict[str, Any]:
    """The line of a question in predictions.*.jsonl and in `predict.py --json`."""
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
        "null_margin": finite_or_none(prediction.margin),
    }


def finite_or_none(number: float) -> float | None:
    """The number, or None for inf and nan, which JSON cannot represent."""
    return number if math.isfinite(number) else None


def in_sentence(text: str, start: int, end: int) -> dict[str, str]:
    """The sentence or sentences around characters `start` to `end`, as before, answer and after.

    >>> in_sentence("It rained. Rollo came. He won.", 11, 16)
    {'before': '', 'answer': 'Rollo', 'after': ' came.'}
    """
    bounds = sentence_starts(text)
    first = max(bound for bound in bounds if bound <= start)
    last = min(bound for bound in bounds if bound >= end)
    return {
        "before": text[first:start].lstrip(),
        "answer": text[start:end],
        "after": text[end:last].rstrip(),
    }


def answer_lines(row: dict[str, Any], colour: bool) -> str:
    """A prediction in two or three lines.  row: from `answer_row`."""
    question, score = on_one_line(row["question"]), f"{row['score']:.2f}"
    if not row["predicted"]:
        closest = f"  (closest: {on_one_line(row['best_span'])})" if row["best_span"] else ""
        return joined([question, "\n  ", f"no answer  {score}{closest}"])
    before, answer, after = row["sentence"].values()
    if len(before) > MAX_CONTEXT:
        cut, _, rest = before[-MAX_CONTEXT:].partition(" ")
        before = "... " + (rest if len(cut) <= MAX_WORD else before[-MAX_CONTEXT:])
    if len(after) > MAX_CONTEXT:
        rest, _, cut = after[:MAX_CONTEXT].rpartition(" ")
        after = (rest if len(cut) <= MAX_WORD else after[:MAX_CONTEXT]) + " ..."
    before, answer, after = map(with_single_blanks, (before, answer, after))
    shown = coloured(answer, 32) if colour else f"[{answer}]"
    found = f"{on_one_line(answer)}  {score}  {row['start']}-{row['end']}"
    return joined([question, "\n  ", found, "\n  ", before.lstrip(), shown, after.rstrip()])
