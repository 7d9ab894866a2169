"""How to choose the words: one trained model, its summaries generated in many ways.

    greedy            the likeliest token at each step
    beams K           the likeliest summary that K sequences side by side find
    temperature t     a token drawn at random; below 1 the likely ones are drawn more often still
    top-k k           drawn from the k likeliest
    top-p p           drawn from the likeliest that together have probability p

For each way: ROUGE against the true summaries, and what the summaries are like whatever is true,
see metrics/diversity.py.  What is drawn at random is drawn several times, each with its own seed;
all else would be the same each time.  How the run itself generates (its --num-beams, ...) plays no
part, only how long its summaries may be.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minift import metrics
from minift.data.read import SummaryRecord
from minift.errors import visible
from minift.generation.config import Generation
from minift.metrics.diversity import distinct, novelty, repetition
from minift.tasks.base import check_range, option
from minift.tasks.summarization import SummarizationTask

# Setting -> what it changes in `Generation`.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {},
    "beams 2": {"num_beams": 2},
    "beams 4": {"num_beams": 4},
    "beams 8": {"num_beams": 8},
    "beams 4, no repeated trigram": {"num_beams": 4, "no_repeat_ngram_size": 3},  # of tokens
    "temperature 0.5": {"do_sample": True, "temperature": 0.5},
    "temperature 1.0": {"do_sample": True},  # the model's own probabilities
    "top-k 10": {"do_sample": True, "top_k": 10},
    "top-k 50": {"do_sample": True, "top_k": 50},
    "top-p 0.7": {"do_sample": True, "top_p": 0.7},
    "top-p 0.9": {"do_sample": True, "top_p": 0.9},
}
TIME = "time, relative"
DIGITS = {"words": 1, TIME: 2}  # behind the point, in the table; all else is a share and has 3
TRUE = "true summaries"


@dataclass(frozen=True)
class DecodingOptions:
    """What to compare on, and how often to draw."""

    draws: int = option(3, "Draws of each random setting, with the seeds --seed, --seed + 1, ...")
    limit: int = option(0, "Records of the dev data to compare on, the first ones; 0: all.")
    examples: int = option(5, "Documents shown with what each setting makes of them.")

    def __post_init__(self) -> None:
        check_range(self, "draws", 1)
        check_range(self, "limit", 0)
        check_range(self, "examples", 1)


@dataclass(frozen=True)
class Decoding:
    """One setting, and what came of it.

    changes: what it changes in `Generation`.
    draws: a row of numbers for each draw, one row where nothing is random.
    texts: of the first draw, one for each record.
    """

    setting: str
    changes: Mapping[str, Any]
    draws: list[dict[str, float]]
    texts: list[str]


def score_settings(
    folder: Path,
    records: Sequence[SummaryRecord],
    options: DecodingOptions,
    batch_size: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> list[Decoding]:
    """Every setting's summaries of the records, and their numbers.

    folder: of a finished run.  The time is that of the generation of all summaries, in terms of the
    shortest.  The same seed and batch size give the same summaries.
    """
    task, model = SummarizationTask.from_pretrained(folder)
    model.to(device)
    features = task.featurize(records)
    plain = Generation(max_new_tokens=task.max_target_length)
    task.generate(model, features[:1], 1, plain)  # what happens once is no setting's cost

    found = []
    for setting, changes in SETTINGS.items():
        generation = replace(plain, **changes)
        draws, texts = [], []
        for i in range(options.draws if generation.do_sample else 1):
            generator = torch.Generator(model.device).manual_seed(seed + i)
            began = time.perf_counter()
            predictions = task.generate(model, features, batch_size, generation, generator)
            seconds = time.perf_counter() - began
            texts.append([prediction.text for prediction in predictions])
            draws.append({**_quality(texts[-1], records), TIME: seconds})
        found.append(Decoding(setting, changes, draws, texts[0]))
    least = min(draw[TIME] for one in found for draw in one.draws)
    return [
        replace(one, draws=[{**draw, TIME: draw[TIME] / least} for draw in one.draws])
        for one in found
    ]


def _quality(texts: Sequence[str], records: Sequence[SummaryRecord]) -> dict[str, float]:
    scores = metrics.rouge(texts, [record.summaries for record in records])
    return {
        **{name: scores[name] for name in ("rouge1", "rouge2", "rougeL")},
        **_look(texts, records),
    }


def _look(texts: Sequence[str], records: Sequence[SummaryRecord]) -> dict[str, float]:
    """What texts are like, whatever is true: their mean length in words, and their variety."""
    return {
        "words": sum(len(text.split()) for text in texts) / len(texts),
        "distinct-1": distinct(texts, 1),
        "distinct-2": distinct(texts, 2),
        "repetition-3": repetition(texts, 3),
        "novelty-2": novelty(texts, [record.document for record in records], 2),
    }


def table_rows(
    decodings: Sequence[Decoding],
    records: Sequence[SummaryRecord],
    show: Callable[[Sequence[float], int], str],
) -> list[dict[str, str]]:
    """A row of text for each setting, and one for the true summaries, to measure the others by.

    show: the values of several draws, digits -> text, as `mean_and_spread` of training/log.py; a
    value that stands alone has no spread.
    """

    def shown(values: Sequence[float], digits: int) -> str:
        return show(values, digits) if len(values) > 1 else f"{values[0]:.{digits}f}"

    def row(name: str, draws: Sequence[Mapping[str, float]]) -> dict[str, str]:
        cells = {c: shown([draw[c] for draw in draws], DIGITS.get(c, 3)) for c in draws[0]}
        return {"setting": name, **cells}

    rows = [row(one.setting, one.draws) for one in decodings]
    true = row(TRUE, [_look([record.summaries[0] for record in records], records)])
    return [*rows, {column: true.get(column, "") for column in rows[0]}]


def points(decodings: Sequence[Decoding], x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    """Setting -> two of the numbers of each draw, for a plot."""
    return {one.setting: [(draw[x], draw[y]) for draw in one.draws] for one in decodings}


def side_by_side(
    decodings: Sequence[Decoding], records: Sequence[SummaryRecord], count: int
) -> str:
    """The first `count` documents, each with its true summaries and every setting's, as Markdown.

    >>> record = SummaryRecord("0", "Rain fell on two towns.", ("It rained.",), "a.jsonl, line 1")
    >>> print(side_by_side([Decoding("greedy", {}, [], ["Rain fell."])], [record], 1), end="")
    ## a.jsonl, line 1
    <BLANKLINE>
        document  Rain fell on two towns.
        true      It rained.
        greedy    Rain fell.
    """
    width = 2 + max(len(title) for title in ("document", *(one.setting for one in decodings)))
    parts = []
    for i, record in enumerate(records[:count]):
        entries = [
            ("document", record.document),
            *(("true", summary) for summary in record.summaries),
            *((one.setting, one.texts[i]) for one in decodings),
        ]
        lines = [_entry(title, text, width) for title, text in entries]
        parts.append("\n".join([f"## {record.where}\n", *lines]) + "\n")
    return "\n".join(parts)


def _entry(title: str, text: str, width: int) -> str:
    """A title and, beside it, a text in lines; indented, so that Markdown shows it as it is."""
    return textwrap.fill(
        visible(" ".join(text.split())) or "(nothing)",
        width=100,
        initial_indent=f"    {title:<{width}}",
        subsequent_indent=" " * (4 + width),
        break_long_words=False,
        break_on_hyphens=False,
    )
