"""Comparisons: a table, a plot where it can be drawn, and no run done twice."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file
from support.running import last_line_of_refusal, read_lines, read_metrics, run_script

from minift.errors import NonFiniteError, UserError
from minift.experiments.comparison import finished_run
from minift.files import write_json
from minift.reports.plots import scatter_plot
from minift.reports.tables import markdown_table, mean_and_spread
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.text.alignment import AGGREGATION_STRATEGIES
from minift.training.defaults import resolve_options
from minift.training.options import TrainOptions
from minift.training.run import run
from minift.training.run_dir import write_options


@pytest.mark.slow
def test_freezing_is_compared_for_each_pooling(tiny_bert, reviews, tmp_path):
    folder = tmp_path / "compared"
    flags = ["--model", tiny_bert, "--train-file", reviews["train"], "--dev-file", reviews["dev"]]
    flags += ["--output-dir", folder, "--epochs", 1, "--seeds", 2, "--device", "cpu"]
    done = run_script("compare_freezing", *flags)
    table = (folder / "table.md").read_text()
    assert table in done.stdout
    results = json.loads((folder / "results.json").read_text())
    names = [f"{what} {how}" for how in ("pooler", "cls", "mean") for what in ("head only", "full")]
    assert [row["setting"] for row in results["rows"]] == names
    assert all(len(results["points"][name]) == 2 for name in names)
    assert "±" in table
    assert (folder / "plot.png").exists() == (importlib.util.find_spec("matplotlib") is not None)

    # Interrupted comparisons go on where they stopped.
    (folder / "head-only-cls-seed2" / "metrics.json").unlink()
    again = run_script("compare_freezing", *flags)
    assert again.stdout.count(", seed ") == 1
    assert "--- head only cls, seed 2" in again.stdout


@pytest.mark.slow
def test_freezing_is_compared_without_a_pooler_too(tiny_bert, reviews, tmp_path):
    path = tiny_bert / "model.safetensors"
    tensors = {name: x for name, x in load_file(path).items() if "pooler" not in name}
    save_file(tensors, path, {"format": "pt"})
    flags = ["--model", tiny_bert, "--train-file", reviews["train"], "--dev-file", reviews["dev"]]
    flags += ["--output-dir", tmp_path / "out", "--epochs", 1, "--seeds", 1, "--device", "cpu"]
    done = run_script("compare_freezing", *flags)
    assert "has no pooler: 'head only pooler' is left out" in done.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    names = ["full pooler", "head only cls", "full cls", "head only mean", "full mean"]
    assert [row["setting"] for row in results["rows"]] == names


@pytest.mark.slow
def test_an_unfinished_run_goes_on_or_begins_again(tiny_bert, reviews, tmp_path):
    task = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"])
    options = TrainOptions(output_dir=tmp_path / "out", epochs=1, save_steps=1, device="cpu")
    finished_run(ClassificationTask, task, options)
    whole = read_lines(tmp_path / "out" / "log.jsonl")
    for resume in (True, False):
        (tmp_path / "out" / "metrics.json").unlink()
        finished_run(ClassificationTask, task, replace(options, resume=resume))
        assert read_lines(tmp_path / "out" / "log.jsonl") == whole
    fresh = replace(options, resume=True, output_dir=tmp_path / "fresh")
    finished_run(ClassificationTask, task, fresh)  # nothing to go on with yet: it begins


@pytest.mark.slow
def test_a_run_with_other_options_is_not_taken_for_this_one(tiny_bert, reviews, tmp_path):
    task = ClassificationOptions(model=str(tiny_bert), train_file=reviews["train"])
    options = TrainOptions(output_dir=tmp_path / "out", epochs=1, device="cpu")
    finished_run(ClassificationTask, task, options)
    finished_run(ClassificationTask, task, replace(options, save_steps=7))  # changes no result
    with pytest.raises(UserError, match="the run has --epochs 1, not 2; choose another"):
        finished_run(ClassificationTask, task, replace(options, epochs=2))
    changed = replace(options, epochs=2, overwrite=True)
    assert finished_run(ClassificationTask, task, changed)["options"]["epochs"] == 2


@pytest.mark.slow
def test_several_seeds_with_those_that_failed(tiny_bert, reviews, tmp_path, monkeypatch):
    flags = ["--model", tiny_bert, "--dropout", 0, "--seeds", 3, "--epochs", 8, "--batch-size", 4]
    flags += [part for s, path in reviews.items() for part in (f"--{s}-file", path)]
    flags += ["--learning-rate", "1e-3"]
    begun = []

    def watched(task_class, task_options, options):
        """Seed 2 explodes, seed 3 learns nothing."""
        begun.append(options.seed)
        if options.seed == 2:
            options.output_dir.mkdir(parents=True)
            resolved = resolve_options(task_class, task_options, options)
            write_options(options.output_dir, resolved)
            raise NonFiniteError("step 7: the loss is not finite")
        metrics = run(task_class, task_options, options)
        if options.seed == 3:
            metrics = {**metrics, "collapsed": True}
            write_json(options.output_dir / "metrics.json", metrics)
        return metrics

    monkeypatch.setattr("minift.experiments.comparison.run", watched)
    for _ in range(2):  # the second time nothing is left to do
        done = run_script("train_classification", *flags, "--output-dir", tmp_path / "out")
        assert "failed: step 7" in done.stdout
        (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
        assert row["failed"] == "2 of 3"
        scores = [read_metrics(tmp_path / "out" / f"classification-seed{seed}") for seed in (1, 3)]
        assert row["accuracy"] == mean_and_spread([score["dev"]["accuracy"] for score in scores])
        assert row["test f1"] == mean_and_spread([score["test"]["f1"] for score in scores])
    assert begun == [1, 2, 3]

    without = [flag for flag in flags if flag not in ("--dev-file", reviews["dev"])]
    done = run_script("train_classification", *without, check=False)
    assert done.returncode == 2
    assert "give a --dev-file" in done.stderr.splitlines()[-1]


def test_tables_and_spreads():
    assert mean_and_spread([0.5]) == "0.500 ± 0.000"
    assert mean_and_spread([0.4, 0.6]) == "0.500 ± 0.141"
    assert markdown_table([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| 1 | x |",
        "| 2 | y |",
    ]


@pytest.mark.slow
def test_plots_are_png(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib, which is not here")
    path = tmp_path / "plot.png"
    assert scatter_plot(path, {"a": [(1, 2), (3, 4)], "b": [(2, 2)]}, "x", "y", "title", True)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_label_strategies_are_compared_by_each_aggregation_strategy(tiny_bert, tmp_path):
    folder = tmp_path / "compared"
    train = tmp_path / "train.conll"
    train.write_text("so O\nbo B-PER\nabba I-PER\n\nthe O\nxyz B-LOC\n\n" * 10)
    flags = ["--model", tiny_bert, "--train-file", train, "--dev-file", train, "--seeds", 1]
    flags += ["--output-dir", folder, "--epochs", 20, "--learning-rate", "5e-3", "--device", "cpu"]
    run_script("compare_label_strategies", *flags)
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert [row["setting"] for row in rows] == ["first", "all", "last"]
    for row in rows:
        own = {"first": "by first", "last": "by last", "all": "by average"}[row["setting"]]
        assert row["f1"] == row[own] == "1.000 ± 0.000"
        assert {f"by {name}" for name in AGGREGATION_STRATEGIES} | {"own, argmax"} <= row.keys()


@pytest.mark.parametrize("script", ["compare_freezing", "compare_label_strategies"])
def test_without_dev_there_is_nothing_to_compare_on(script, tmp_path, monkeypatch, capsys):
    flags = {"train-file": tmp_path / "train", "output-dir": tmp_path / "out"}
    last = last_line_of_refusal(script, flags, monkeypatch, capsys)
    assert "--dev-file is missing" in last
    assert not (tmp_path / "out").exists()
