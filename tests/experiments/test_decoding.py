"""Ways to decode: every setting reaches the search, draws repeat, the comparison runs."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from support import summaries
from support.running import ROOT, last_line_of_refusal, run_script

from minift.data.read import SummaryRecord
from minift.experiments.decoding import (
    SETTINGS,
    TIME,
    Decoding,
    DecodingOptions,
    points,
    score_settings,
    side_by_side,
    table_rows,
)
from minift.metrics import rouge
from minift.metrics.diversity import distinct, novelty, repetition
from minift.models.t5 import T5ForConditionalGeneration
from minift.reports.tables import mean_and_spread
from minift.tasks.summarization import SummarizationTask
from minift.training.run_dir import RUN_KEYS, write_options

LONGEST = 12
DRAWN = {setting for setting, changes in SETTINGS.items() if changes.get("do_sample")}


@pytest.fixture
def finished(tiny_t5, trees, tmp_path):
    """A folder as a run leaves it, and the dev records.  The model is random, and unsure: its
    output layer is its own, so that it does not only repeat the last token."""
    options, _ = summaries.options(tiny_t5, trees, None, {"max_target_length": LONGEST})
    task, model, splits = SummarizationTask.from_options(options)
    untied = T5ForConditionalGeneration(replace(model.config, tie_word_embeddings=False))
    with torch.no_grad():
        untied.lm_head.weight.normal_(0, 0.5)
    task.save(untied, tmp_path / "finished")
    return tmp_path / "finished", splits["dev"]


def without_time(decodings: list[Decoding]) -> list[Decoding]:
    return [
        replace(one, samples=[{**draw, TIME: 1.0} for draw in one.samples]) for one in decodings
    ]


@pytest.mark.slow
def test_every_setting_is_what_the_search_does(finished):
    folder, records = finished
    found = score_settings(folder, records, DecodingOptions(num_samples=1), 16, seed=5)
    assert [one.setting for one in found] == list(SETTINGS)
    # One batch of all, longest first, straight to the model.
    task, model = SummarizationTask.from_pretrained(folder)
    features = sorted(task.featurize(records), key=lambda feature: -feature.length)
    batch = task.collate(features)
    for one in found:
        rows = model.generate(
            batch.input_ids,
            batch.attention_mask,
            max_new_tokens=LONGEST,
            generator=torch.Generator().manual_seed(5),
            **SETTINGS[one.setting],
        )
        own = [row[1 : row.index(1) if 1 in row else None] for row in rows.tolist()]
        texts = [task.tokenizer.decode(ids).strip() for ids in own]
        assert [one.texts[feature.record] for feature in features] == texts, one.setting
    # None does what another does: one that did nothing would be greedy.
    for one, other in combinations(found, 2):
        assert one.texts != other.texts, (one.setting, other.setting)


@pytest.mark.slow
def test_draws_are_those_of_their_seeds(finished):
    folder, records = finished
    records = records[:6]
    both = score_settings(folder, records, DecodingOptions(num_samples=2), 5, seed=1)
    again = score_settings(folder, records, DecodingOptions(num_samples=2), 5, seed=1)
    assert without_time(both) == without_time(again)
    later = score_settings(folder, records, DecodingOptions(num_samples=1), 5, seed=2)
    for one, second in zip(without_time(both), without_time(later), strict=True):
        assert len(one.samples) == (2 if one.setting in DRAWN else 1)
        assert one.samples[-1] == second.samples[0]
        assert (one.texts != second.texts) == (one.setting in DRAWN)


def test_numbers_are_those_of_the_texts(finished):
    folder, records = finished
    found = score_settings(folder, records, DecodingOptions(num_samples=1), 16, seed=1)
    documents = [record.document for record in records]
    for one in found:
        (numbers,) = one.samples
        scores = rouge(one.texts, [record.summaries[0] for record in records])
        assert {k: numbers[k] for k in ("rouge1", "rouge2", "rougeL")} == {
            k: scores[k] for k in ("rouge1", "rouge2", "rougeL")
        }
        assert numbers["words"] == sum(len(text.split()) for text in one.texts) / len(records)
        assert numbers["distinct-1"] == distinct(one.texts, 1)
        assert numbers["distinct-2"] == distinct(one.texts, 2)
        assert numbers["repetition-3"] == repetition(one.texts, 3)
        assert numbers["novelty-2"] == novelty(one.texts, documents, 2)
    assert min(numbers[TIME] for one in found for numbers in one.samples) == 1
    assert points(found, "novelty-2", "words")["greedy"] == [
        (found[0].samples[0]["novelty-2"], found[0].samples[0]["words"])
    ]


RECORDS = [
    SummaryRecord(
        "0", "a red kite\nflew  over | a hill", ("a kite flew", "kites fly"), "x, line 1"
    ),
    SummaryRecord("1", "rain fell", ("it was wet",), "x, line 2"),
]


def decoding(setting: str, *samples: tuple[float, float, float]) -> Decoding:
    rows = [{"rougeL": a, "words": b, TIME: c} for a, b, c in samples]
    return Decoding(setting, {}, rows, ["a kite", " "])


def test_the_table_shows_a_spread_where_there_is_one():
    decodings = [decoding("greedy", (0.25, 2, 1)), decoding("top-k 10", (0.1, 3, 2), (0.2, 4, 3))]
    rows = table_rows(decodings, RECORDS, mean_and_spread)
    assert rows == [
        {"setting": "greedy", "rougeL": "0.250", "words": "2.0", TIME: "1.00"},
        {
            "setting": "top-k 10",
            "rougeL": "0.150 ± 0.071",
            "words": "3.5 ± 0.7",
            TIME: "2.50 ± 0.71",
        },
        {"setting": "true summaries", "rougeL": "", "words": "3.0", TIME: ""},
    ]


def test_examples_stand_side_by_side():
    shown = side_by_side([decoding("greedy"), decoding("top-k 10")], RECORDS, 5)
    assert shown == (
        "## x, line 1\n\n"
        "    document  a red kite flew over | a hill\n"
        "    true      a kite flew\n"
        "    true      kites fly\n"
        "    greedy    a kite\n"
        "    top-k 10  a kite\n"
        "\n"
        "## x, line 2\n\n"
        "    document  rain fell\n"
        "    true      it was wet\n"
        "    greedy    (nothing)\n"
        "    top-k 10  (nothing)\n"
    )
    long = replace(RECORDS[0], document="word-by-word " * 50 + "w" * 200)
    lines = side_by_side([decoding("greedy")], [long, *RECORDS], 1).splitlines()
    assert lines[2].startswith("    document  word-by-word word")
    body = [line for line in lines[2:] if line.strip()]
    assert all(line.startswith(" " * 4) for line in body)
    assert " ".join(" ".join(line[14:] for line in body).split()).startswith(long.document)
    assert max(len(line) for line in body if "ww" not in line) <= 100


@pytest.mark.parametrize("changes", [{"num_samples": 0}, {"limit": -1}, {"examples": 0}])
def test_options_that_cannot_be(changes):
    with pytest.raises(ValueError, match=f"--{next(iter(changes)).replace('_', '-')} is"):
        DecodingOptions(**changes)


def run_here(monkeypatch, capsys, *flags: object) -> str:
    """What the script prints, run in this process."""
    path = str(ROOT / "scripts" / "compare_decoding.py")
    monkeypatch.setattr(sys, "argv", [path, *map(str, flags)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(path, run_name="__main__")
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    return shown.out


@pytest.mark.slow
def test_the_comparison(tiny_t5, trees, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    flags = ["--model", tiny_t5, "--train-file", trees["train"], "--dev-file", trees["dev"]]
    flags += ["--epochs", 1, "--device", "cpu", "--output-dir", folder, "--freeze-layers", 0]
    flags += ["--num-samples", 2, "--limit", 7, "--examples", 3]
    shown = run_here(monkeypatch, capsys, *flags)
    assert "the best model is in" in shown
    assert "\n7 documents; " in shown
    assert "no plot" not in shown or importlib.util.find_spec("matplotlib") is None
    assert (folder / "plot.png").exists() == (importlib.util.find_spec("matplotlib") is not None)

    table = (folder / "decoding.md").read_text()
    assert table in shown
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert lines[0][:4] == ["setting", "rouge1", "rouge2", "rougeL"]
    assert [line[0] for line in lines[2:]] == [*SETTINGS, "true summaries"]
    for setting, *cells in lines[2:]:
        assert all("±" in cell for cell in cells) == (setting in DRAWN)
    kept = json.loads((folder / "decoding.json").read_text())
    assert {one["setting"]: one["changes"] for one in kept} == SETTINGS
    assert all(len(one["texts"]) == 7 for one in kept)
    examples = (folder / "examples.md").read_text()
    assert examples.count("## ") == examples.count("    true ") == 3
    first = json.loads(trees["dev"].read_text().splitlines()[0])
    assert first["document"] in examples
    assert first["summary"] in examples

    # The run is finished: it is compared, not done again; and without matplotlib that is said.
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (folder / "plot.png").unlink(missing_ok=True)
    again = run_here(monkeypatch, capsys, *flags)
    assert "the best model is in" not in again
    assert "no plot: matplotlib is not installed" in again
    assert not (folder / "plot.png").exists()
    assert [one["texts"] for one in json.loads((folder / "decoding.json").read_text())] == [
        one["texts"] for one in kept
    ]


@pytest.mark.slow
def test_summaries_that_rouge_does_not_read_give_a_warning(
    tiny_t5, trees, tmp_path, monkeypatch, capsys
):
    dev = tmp_path / "chinese.jsonl"
    dev.write_text('{"document": "议会周一开会。", "summary": "议会开会"}\n', encoding="utf-8")
    flags = ["--model", tiny_t5, "--train-file", trees["train"], "--dev-file", dev]
    flags += ["--epochs", 1, "--device", "cpu", "--output-dir", tmp_path / "out"]
    shown = run_here(monkeypatch, capsys, *flags, "--freeze-layers", 0, "--num-samples", 1)
    _, compared = shown.split("dev data  ")
    assert "warning: ROUGE reads only the letters a-z" in compared


def test_without_dev_there_is_nothing_to_compare_on(tiny_t5, trees, tmp_path, monkeypatch, capsys):
    flags = {"model": tiny_t5, "train-file": trees["train"], "output-dir": tmp_path / "out"}
    last = last_line_of_refusal("compare_decoding", flags, monkeypatch, capsys)
    assert "--dev-file is missing" in last
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_is_not_replaced_unasked(tiny_t5, trees, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").mkdir()
    write_options(tmp_path / "out", dict.fromkeys(RUN_KEYS, 0))
    state = tmp_path / "out" / "state" / "state.json"
    state.parent.mkdir()
    state.write_text("hours of work")
    flags = {"model": tiny_t5, "train-file": trees["train"], "dev-file": trees["dev"]}
    flags |= {"output-dir": tmp_path / "out", "device": "cpu"}
    last = last_line_of_refusal("compare_decoding", flags, monkeypatch, capsys)
    assert "already holds a run; add --resume to continue it, --overwrite to replace it" in last
    assert state.read_text() == "hours of work"


@pytest.mark.slow
def test_a_finished_run_is_compared_on_its_own_dev_data(
    tiny_t5, trees, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "out"
    data = {"train-file": trees["train"], "dev-file": trees["dev"]}
    flags = {"model": tiny_t5, **data, "epochs": 1, "device": "cpu", "max-target-length": 4}
    training = [part for name, value in flags.items() for part in (f"--{name}", value)]
    run_script("train_summarization", *training, "--output-dir", folder)
    few = ["--output-dir", folder, "--num-samples", 1, "--limit", 3]
    shown = run_here(monkeypatch, capsys, *few)
    assert f"dev data  {trees['dev']}, 3 documents" in shown
    assert json.loads(trees["dev"].read_text().splitlines()[0])["document"] in (
        (folder / "examples.md").read_text()
    )
    shown = run_here(
        monkeypatch, capsys, *few, "--train-file", trees["train"], "--dev-file", trees["test"]
    )
    assert f"dev data  {trees['test']}, 3 documents" in shown
    # An option that contradicts the run is refused; one that agrees with it is not.
    run_here(monkeypatch, capsys, *few, "--epochs", 1)
    for name, value in {"epochs": 2, "train-file": trees["dev"], "model": "other"}.items():
        last = last_line_of_refusal(
            "compare_decoding", {"output-dir": folder, name: value}, monkeypatch, capsys
        )
        assert f"the run has --{name}" in last
        assert "leave it out, or choose another --output-dir" in last


def test_options_that_the_comparison_replaces_are_refused(tmp_path, monkeypatch, capsys):
    last = last_line_of_refusal("compare_decoding", {"num-beams": 2}, monkeypatch, capsys)
    assert last == (
        "error: --num-beams: the comparison decodes in its own ways; leave it out "
        "(--help-all lists all flags)"
    )
