"""Comparing decoding methods: the summaries of one trained model under many settings.

    greedy            the most probable token at each step
    beams K           beam search with K beams: the most probable of the summaries that it finds
    temperature t     sampling from softmax(logits / t); below 1, probable tokens gain probability
    top-k k           sampling from the k most probable tokens (Fan et al. 2018, "Hierarchical
                      neural story generation")
    top-p p           nucleus sampling: from the most probable tokens that together have probability
                      p (Holtzman et al. 2020, "The curious case of neural text degeneration")

Each setting is measured by ROUGE against the reference summaries, and by the length and variety of
its summaries (metrics/diversity.py), which need no reference.  Random settings are sampled several
times, each with its own seed; the others give the same summaries each time.  Of the run's own
decoding options, only the maximum length applies.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minift import metrics
from minift.data.read import SummaryRecord
from minift.device import pick_device
from minift.errors import UserError, escape_controls
from minift.experiments.comparison import check_dev_file
from minift.files import write_json, write_text
from minift.generation.config import GenerationConfig
from minift.metrics.diversity import distinct, novelty, repetition
from minift.options import check_range, option
from minift.reports.plots import scatter_plot
from minift.reports.tables import markdown_table, mean_and_spread
from minift.tasks.summarization import SummarizationOptions, SummarizationTask
from minift.tasks.summary_checks import unread_by_rouge
from minift.terminal import print_line
from minift.training.cli import as_dict
from minift.training.defaults import with_defaults
from minift.training.options import TrainOptions
from minift.training.resume import check_same_options
from minift.training.run import run
from minift.training.run_dir import FINISHED, decoding_results, made, read_options, state_of

# Setting -> what it changes in `GenerationConfig`.
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
DIGITS = {"words": 1, TIME: 2}  # decimals in the table; all other columns are shares and have 3
REFERENCE = "true summaries"
# Options of `SummarizationOptions` and `TrainOptions` that the comparison replaces.
WITHOUT = {
    **SummarizationTask.unsupported_options,
    **dict.fromkeys(
        ("num_beams", "length_penalty", "no_repeat_ngram_size", "beam_early_stopping"),
        "the comparison decodes in its own ways; leave it out",
    ),
}
FREE_OPTIONS = ("batch_size", "seed", "device")  # a comparison of a finished run may choose them


@dataclass(frozen=True)
class DecodingOptions:
    """The records to compare on, and the number of samples."""

    num_samples: int = option(
        3, "Samples of each random setting, with the seeds --seed, --seed + 1, ..."
    )
    limit: int = option(0, "Number of dev records to compare on, from the first; 0: all.")
    examples: int = option(5, "Documents to show with the summary of each setting.")

    def __post_init__(self) -> None:
        check_range(self, "num_samples", 1)
        check_range(self, "limit", 0)
        check_range(self, "examples", 1)


@dataclass(frozen=True)
class Decoding:
    """One setting with its scores and summaries.

    changes: fields of `GenerationConfig` -> their values in this setting.
    samples: a row of scores for each sample; one row for a setting that is not random.
    texts: the summaries of the first sample, one for each record.
    """

    setting: str
    changes: Mapping[str, Any]
    samples: list[dict[str, float]]
    texts: list[str]


def score_settings(
    folder: Path,
    records: Sequence[SummaryRecord],
    options: DecodingOptions,
    batch_size: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> list[Decoding]:
    """Generate and score the summaries of the records under every setting.

    folder: the output directory of a finished run.
    The time is that of generating all summaries, divided by the time of the fastest setting.  The
    same seed and batch size give the same summaries.
    """
    task, model = SummarizationTask.from_pretrained(folder)
    model.to(device)
    features = task.featurize(records)
    greedy = GenerationConfig(max_new_tokens=task.max_target_length)
    task.generate(model, features[:1], 1, greedy)  # warmup, which no setting's time includes

    decodings = []
    for setting, changes in SETTINGS.items():
        generation = replace(greedy, **changes)
        samples, texts = [], []
        for i in range(options.num_samples if generation.do_sample else 1):
            generator = torch.Generator(model.device).manual_seed(seed + i)
            started = time.perf_counter()
            predictions = task.generate(model, features, batch_size, generation, generator)
            seconds = time.perf_counter() - started
            texts.append([prediction.text for prediction in predictions])
            samples.append({**_scores(texts[-1], records), TIME: seconds})
        decodings.append(Decoding(setting, changes, samples, texts[0]))
    least = min(sample[TIME] for one in decodings for sample in one.samples)
    return [
        replace(one, samples=[{**sample, TIME: sample[TIME] / least} for sample in one.samples])
        for one in decodings
    ]


def _scores(texts: Sequence[str], records: Sequence[SummaryRecord]) -> dict[str, float]:
    scores = metrics.rouge(texts, [record.summaries for record in records])
    return {
        **{name: scores[name] for name in ("rouge1", "rouge2", "rougeL")},
        **_text_statistics(texts, records),
    }


def _text_statistics(texts: Sequence[str], records: Sequence[SummaryRecord]) -> dict[str, float]:
    """Mean length in words, and variety; neither needs a reference summary."""
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
    """The table's rows as text: one for each setting, and one for the true summaries.

    show: (values of several samples, digits) -> text, such as `mean_and_spread` of
        reports/tables.py.  A single value is shown without a spread.
    """

    def shown(values: Sequence[float], digits: int) -> str:
        return show(values, digits) if len(values) > 1 else f"{values[0]:.{digits}f}"

    def row(name: str, samples: Sequence[Mapping[str, float]]) -> dict[str, str]:
        cells = {c: shown([s[c] for s in samples], DIGITS.get(c, 3)) for c in samples[0]}
        return {"setting": name, **cells}

    rows = [row(one.setting, one.samples) for one in decodings]
    first = [record.summaries[0] for record in records]
    reference = row(REFERENCE, [_text_statistics(first, records)])
    return [*rows, {column: reference.get(column, "") for column in rows[0]}]


def points(decodings: Sequence[Decoding], x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    """Setting -> (x, y) of each sample, for a plot; x and y are names of scores."""
    return {one.setting: [(sample[x], sample[y]) for sample in one.samples] for one in decodings}


def side_by_side(
    decodings: Sequence[Decoding], records: Sequence[SummaryRecord], count: int
) -> str:
    """The first `count` documents with the true summaries and those of every setting, in Markdown.

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
    """A title with a wrapped text beside it, indented so that Markdown shows it as a code block."""
    return textwrap.fill(
        escape_controls(" ".join(text.split())) or "(nothing)",
        width=100,
        initial_indent=f"    {title:<{width}}",
        subsequent_indent=" " * (4 + width),
        break_long_words=False,
        break_on_hyphens=False,
    )


def options_of_run(
    folder: Path, task_options: SummarizationOptions, options: TrainOptions
) -> SummarizationOptions:
    """The options that name the data of a finished run; --dev-file may choose other dev data.

    `UserError` for an option that was given and contradicts the run.
    """
    usual = as_dict(SummarizationOptions(), TrainOptions())
    given = as_dict(replace(task_options, dev_file=None), options)
    given = {name: value for name, value in given.items() if value != usual[name]}
    contradicting = {name: value for name, value in given.items() if name not in FREE_OPTIONS}
    check_same_options(folder, contradicting, "leave it out, or choose another --output-dir")
    run = read_options(folder)
    if not (isinstance(run.get("train_file"), list) and "dev_file" in run):
        raise UserError(f"{folder}: holds no run of train_summarization.py; give its folder")
    started_in = Path(run["started_in"])
    dev_file = task_options.dev_file or (run["dev_file"] and started_in / run["dev_file"])
    train_file = tuple(started_in / file for file in run["train_file"])
    return replace(task_options, train_file=train_file, dev_file=dev_file)


def compare_decoding(
    task_options: SummarizationOptions, options: TrainOptions, comparison: DecodingOptions
) -> list[Decoding]:
    """Score every setting on dev records with the model of one run, which is done first if missing.

    Writes decoding.md, decoding.json, examples.md and, if matplotlib is installed, plot.png to the
    folder of the run.  Raises `UserError` if there is no dev data.
    """
    with made(options.output_dir, "compare-decoding") as folder:
        return compare_in(folder, task_options, options, comparison)


def compare_in(
    folder: Path,
    task_options: SummarizationOptions,
    options: TrainOptions,
    comparison: DecodingOptions,
) -> list[Decoding]:
    """As `compare_decoding`, with the run in a folder."""
    finished = state_of(folder) == FINISHED
    with decoding_results(folder, task_options):
        pass  # refuses the folder before a run
    if finished:
        task_options = options_of_run(folder, task_options, options)
    check_dev_file(task_options)
    records = SummarizationTask.read_splits(task_options)["dev"][: comparison.limit or None]
    device = pick_device(options.device)
    if not finished:
        run(SummarizationTask, task_options, replace(options, output_dir=folder))
    print_line(f"dev data  {task_options.dev_file or 'the built-in set'}, {len(records)} documents")
    for warning in unread_by_rouge({"dev": records}):
        print_line(f"warning: {warning}")
    batch_size = with_defaults(SummarizationTask, task_options, options)[0].batch_size
    decodings = score_settings(folder, records, comparison, batch_size, options.seed, device)

    table = markdown_table(table_rows(decodings, records, mean_and_spread))
    x, y, title = "distinct-2", "rougeL", f"Decoding strategies, {len(records)} documents"
    with decoding_results(folder, task_options):
        write_json(folder / "decoding.json", [asdict(decoding) for decoding in decodings])
        write_text(folder / "decoding.md", table + "\n")
        write_text(folder / "examples.md", side_by_side(decodings, records, comparison.examples))
        plotted = scatter_plot(folder / "plot.png", points(decodings, x, y), x, y, title)
    written = f"decoding.md, decoding.json, examples.md{', plot.png' if plotted else ''}"
    print_line(f"\n{table}\n\n{len(records)} documents; {folder} holds {written}")
    if not plotted:
        print_line("no plot: matplotlib is not installed (pip install 'minift[extra]')")
    return decodings
