"""What windows cost and what they bring: one trained model, asked about long contexts.

Paragraphs that follow each other in a file are joined, so that contexts are longer than the model
and every question must find its answer among several paragraphs:

    paragraphs   [a b] [c d e]          questions about "d" keep their answers, moved along
    joined by 2  [a b \\n\\n c d e]

The same model then reads them in windows of several lengths with several overlaps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minift.data.batching import chunks
from minift.data.squad import Answer, QuestionRecord
from minift.models.base import PretrainedModel
from minift.tasks.base import check_range, option
from minift.tasks.qa import QaTask

BETWEEN = "\n\n"
COLUMNS = ("f1", "exact", "f1_at_zero", "answerable_f1")  # of what a question's windows say


@dataclass(frozen=True)
class LongContextOptions:
    """Which contexts and windows to try."""

    join: int = option(5, "Neighbouring paragraphs that become one long context.")
    windows: tuple[int, ...] = option((128, 256, 384, 512), "Lengths of windows in tokens.")
    overlaps: tuple[int, ...] = option((0, 32, 64, 128), "Overlaps of windows in tokens.")

    def __post_init__(self) -> None:
        check_range(self, "join", 1)


def join_paragraphs(records: Sequence[QuestionRecord], count: int) -> list[QuestionRecord]:
    """The same questions about `count` neighbouring contexts at a time, answers moved along.

    >>> first = QuestionRecord("1", "?", "a b", (Answer("b", 2),))
    >>> second = QuestionRecord("2", "?", "c d", (Answer("d", 2),))
    >>> [(r.context, r.answers[0].start) for r in join_paragraphs([first, second], 2)]
    [('a b\\n\\nc d', 2), ('a b\\n\\nc d', 7)]
    """
    joined = []
    for contexts in chunks(list(dict.fromkeys(record.context for record in records)), count):
        starts, position = {}, 0
        for context in contexts:
            starts[context] = position
            position += len(context) + len(BETWEEN)
        for record in records:
            if record.context in starts:
                by = starts[record.context]
                answers = record.answers and tuple(
                    Answer(answer.text, answer.start + by) for answer in record.answers
                )
                joined.append(replace(record, context=BETWEEN.join(contexts), answers=answers))
    return joined


def score_windows(
    folder: Path, records: Sequence[QuestionRecord], options: LongContextOptions, batch_size: int
) -> list[dict[str, Any]]:
    """A row for each length and overlap of windows that the questions leave room for.

    folder: of a finished run.  The time is that of all of the prediction, in terms of the least.
    """
    task, model = QaTask.from_pretrained(folder)
    longest = max(map(len, task.tokenizer.ids([record.question for record in records])))
    room = -task.tokenizer.num_special(pair=True) - longest
    rows, seconds = [], []
    for window in options.windows:
        for overlap in options.overlaps:
            if window + room > overlap:
                settings = replace(task.options, overlap=overlap)
                changed = replace(task, max_length=window, options=settings)
                began = time.perf_counter()
                row = _measure(changed, model, records, batch_size)
                seconds.append(time.perf_counter() - began)
                rows.append({"window": window, "overlap": overlap, **row})
    least = min(seconds, default=1.0)
    return [{**row, "time, relative": s / least} for row, s in zip(rows, seconds, strict=True)]


def _measure(
    task: QaTask, model: PretrainedModel, records: Sequence[QuestionRecord], batch_size: int
) -> dict[str, float]:
    features = task.featurize(records)
    predictions = task.predict(model, features, batch_size)
    score = replace(task, threshold=None).score(predictions, records)
    return {
        **{name: score[name] for name in COLUMNS if name in score},
        "windows a question": len(features) / len(records),
        "tokens a question": sum(feature.length for feature in features) / len(records),
    }


def score_thresholds(
    folder: Path, records: Sequence[QuestionRecord], batch_size: int
) -> list[dict[str, Any]]:
    """A row for each way to decide that there is no answer."""
    task, model = QaTask.from_pretrained(folder)
    predictions = task.predict(model, task.featurize(records), batch_size)
    best = replace(task, threshold=None).score(predictions, records)
    if "best_f1_thresh" not in best:
        return []
    infinite = float("inf")
    thresholds = {
        "always an answer": infinite,
        "margin at zero": 0.0,
        "threshold of the best F1": best["best_f1_thresh"],
        "threshold of the best exact match": best["best_exact_thresh"],
        "never an answer": -infinite,
    }
    rows = []
    for name, threshold in thresholds.items():
        score = replace(task, threshold=threshold).score(predictions, records)
        columns = ("f1", "exact", "HasAns_f1", "NoAns_f1")
        shown = {column: score[column] for column in columns if column in score}
        rows.append({"no answer": name, "threshold": threshold, **shown})
    return rows
