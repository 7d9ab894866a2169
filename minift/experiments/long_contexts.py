"""Question answering on long contexts: the quality and cost of window lengths and doc strides.

Consecutive paragraphs of a file are joined, so that contexts exceed the model's limit and each
answer must be found among several paragraphs:

    paragraphs   [a b] [c d e]          questions about "d" keep their answers, at shifted positions
    joined by 2  [a b \\n\\n c d e]

One trained model then reads them in windows of several lengths, with several doc strides (overlaps
of neighbouring windows).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from minift import hub
from minift.data.batching import chunks
from minift.data.squad import Answer, QuestionRecord
from minift.errors import UserError
from minift.experiments.comparison import (
    CompareOptions,
    check_dev_file,
    finished_run,
    seed_range,
    table_of_means,
)
from minift.models.base import PretrainedModel
from minift.options import check_range, option
from minift.tasks.qa import QaOptions, QaTask
from minift.terminal import print_line
from minift.text.tokenizer import Tokenizer
from minift.training.defaults import with_defaults
from minift.training.options import TrainOptions
from minift.training.run_dir import experiment

SEPARATOR = "\n\n"
COLUMNS = ("f1", "exact", "f1_at_zero", "answerable_f1")  # scores in the table, if computed


@dataclass(frozen=True)
class LongContextOptions:
    """The contexts and windows to compare."""

    join: int = option(5, "Consecutive paragraphs that are joined into one long context; 1: none.")
    max_lengths: tuple[int, ...] = option(
        (128, 256, 384, 512), "Window lengths to compare, in tokens."
    )
    doc_strides: tuple[int, ...] = option(
        (0, 32, 64, 128), "Overlaps of neighbouring windows to compare, in tokens."
    )

    def __post_init__(self) -> None:
        check_range(self, "join", 1)
        check_range(self, "max_lengths", 3)
        check_range(self, "doc_strides", 0)


def join_paragraphs(records: Sequence[QuestionRecord], count: int) -> list[QuestionRecord]:
    """The same questions about `count` consecutive contexts each, with shifted answers.

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
            position += len(context) + len(SEPARATOR)
        for record in records:
            if record.context in starts:
                shift = starts[record.context]
                answers = record.answers and tuple(
                    Answer(answer.text, answer.start + shift) for answer in record.answers
                )
                joined.append(replace(record, context=SEPARATOR.join(contexts), answers=answers))
    return joined


def windows_with_room(
    tokenizer: Tokenizer, records: Sequence[QuestionRecord], options: LongContextOptions
) -> list[tuple[int, int]]:
    """The pairs (window length, doc stride) that have room for context beside each question."""
    longest = max(map(len, tokenizer.ids([record.question for record in records])))
    overhead = longest + tokenizer.num_special(pair=True)  # tokens that are not context
    pairs = product(options.max_lengths, options.doc_strides)
    return [(window, doc_stride) for window, doc_stride in pairs if window - overhead > doc_stride]


def check_windows(
    model: str, records: Sequence[QuestionRecord], options: LongContextOptions
) -> None:
    """`UserError`, before a model is trained, if it cannot read a window or no window has room.

    model: the checkpoint that training starts from.
    """
    folder = hub.find_checkpoint(model)
    config = QaTask.model_class(folder).config_class.from_pretrained(folder)
    longest = max(options.max_lengths)
    if config.has_max_tokens and longest > config.max_tokens:
        raise UserError(
            f"--max-lengths has {longest}, but {model} reads at most {config.max_tokens} tokens; "
            "give smaller ones"
        )
    if not windows_with_room(Tokenizer.from_pretrained(folder), records, options):
        raise UserError(
            f"--max-lengths has {longest}, in which the longest question of the dev data leaves no "
            "room for any of --doc-strides; give larger windows or smaller overlaps"
        )


def score_windows(
    folder: Path, records: Sequence[QuestionRecord], options: LongContextOptions, batch_size: int
) -> list[dict[str, Any]]:
    """Score the model for each window length and doc stride; returns a table row for each.

    folder: the output directory of a finished run.
    A combination is left out if, beside the longest question, a window has no room for more than
    its overlap.  The time is that of featurizing, predicting and scoring, divided by the least.
    """
    task, model = QaTask.from_pretrained(folder)
    rows, seconds = [], []
    for window, doc_stride in windows_with_room(task.tokenizer, records, options):
        settings = replace(task.options, doc_stride=doc_stride)
        changed = replace(task, max_length=window, options=settings)
        started = time.perf_counter()
        row = _measure(changed, model, records, batch_size)
        seconds.append(time.perf_counter() - started)
        rows.append({"window": window, "doc stride": doc_stride, **row})
    least = min(seconds, default=1.0)
    return [{**row, "time, relative": s / least} for row, s in zip(rows, seconds, strict=True)]


def _measure(
    task: QaTask, model: PretrainedModel, records: Sequence[QuestionRecord], batch_size: int
) -> dict[str, float]:
    features = task.featurize(records)
    predictions = task.predict(model, features, batch_size)
    score = replace(task, null_threshold=None).score(predictions, records)
    return {
        **{name: score[name] for name in COLUMNS if name in score},
        "windows a question": len(features) / len(records),
        "tokens a question": sum(feature.length for feature in features) / len(records),
    }


def score_thresholds(
    folder: Path, records: Sequence[QuestionRecord], batch_size: int
) -> list[dict[str, Any]]:
    """A table row for each null threshold; none if the data has only answerable questions.

    The model gives no answer where score(no answer) - score(best span) exceeds the threshold.
    """
    task, model = QaTask.from_pretrained(folder)
    predictions = task.predict(model, task.featurize(records), batch_size)
    best = replace(task, null_threshold=None).score(predictions, records)
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
        score = replace(task, null_threshold=threshold).score(predictions, records)
        columns = ("f1", "exact", "HasAns_f1", "NoAns_f1")
        shown = {column: score[column] for column in columns if column in score}
        rows.append({"no answer": name, "threshold": threshold, **shown})
    return rows


def compare_long_contexts(
    task_options: QaOptions,
    options: TrainOptions,
    comparison: LongContextOptions,
    repeat: CompareOptions,
) -> dict[str, list[list[dict[str, Any]]]]:
    """Train a model for each seed; score windows on joined paragraphs, thresholds on single ones.

    Returns the rows of `score_windows` for each seed as "windows", and those of `score_thresholds`
    as "thresholds".  Writes their means to windows.md and thresholds.md.  Raises `UserError` if
    there is no dev data.
    """
    check_dev_file(task_options)
    seeds = seed_range(options.seed, repeat.seeds)
    runs = [f"seed{seed}" for seed in seeds]
    with experiment(options.output_dir, "compare-long-contexts", runs, task_options) as folder:
        return compare_in(folder, task_options, options, comparison, seeds)


def compare_in(
    folder: Path,
    task_options: QaOptions,
    options: TrainOptions,
    comparison: LongContextOptions,
    seeds: Sequence[int],
) -> dict[str, list[list[dict[str, Any]]]]:
    """As `compare_long_contexts`, in a folder that is this comparison's."""
    records = QaTask.read_splits(task_options)["dev"]
    joined = join_paragraphs(records, comparison.join)
    check_windows(task_options.model, joined, comparison)
    options, _ = with_defaults(QaTask, task_options, options)
    windows, thresholds = [], []
    for seed in seeds:
        target = folder / f"seed{seed}"
        finished_run(QaTask, task_options, replace(options, seed=seed, output_dir=target))
        windows.append(score_windows(target, joined, comparison, options.batch_size))
        thresholds.append(score_thresholds(target, records, options.batch_size))
    for name, runs, keys in (
        ("windows", windows, ("window", "doc stride")),
        ("thresholds", thresholds, ("no answer",)),
    ):
        print_line(
            f"\n{table_of_means(folder / f'{name}.md', runs, keys)}\n\nin {folder}/{name}.md"
        )
    return {"windows": windows, "thresholds": thresholds}
