"""The comparisons run on tiny models, and both sides compute the same."""

from __future__ import annotations

import random
import re

import pytest
from support.questions import question
from support.questions import write as write_questions
from support.running import run_script

SHORT = ("--batch-size", "4", "--rounds", "1")


@pytest.fixture(autouse=True)
def _with_transformers():
    pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.slow
def test_training_steps(tiny_bert, reviews):
    flags = ("--model", tiny_bert, "--train-file", reviews["train"], "--steps", "1", *SHORT)
    out = run_script("benchmark", "training", "classification", *flags, "--profile").stdout
    assert float(re.search(r"differ by at most (\S+)", out)[1]) < 1e-5
    assert len(re.findall(r"^\| (?:minift|transformers)", out, re.M)) == 3
    assert re.search(r"MFLOP for a token, at \d+% of that rate", out)
    shares = [float(x) for x in re.findall(r"^\| [a-z ]+ \| ([\d.]+)% \|$", out, re.M)]
    assert len(shares) == 9  # eight purposes and all else
    assert sum(shares) == pytest.approx(100, abs=1)


def test_inference(tiny_bert, tmp_path):
    train = write_questions(
        tmp_path / "train.json", [question(i, random.Random(i)) for i in range(9)]
    )
    flags = ("--model", tiny_bert, "--train-file", train, *SHORT)
    out = run_script("benchmark", "inference", "qa", *flags).stdout
    assert float(re.search(r"differ by at most (\S+)", out)[1]) < 1e-5
    assert "in the file's order" in out


@pytest.mark.slow
def test_features(minilm):
    pytest.importorskip("datasets", reason="datasets is not installed")
    out = run_script("benchmark", "features", "--rounds", "1", "--max-length", "64").stdout
    same, ours, peers = re.search(r"(\d+) of (\d+) and (\d+)", out).groups()
    assert same == ours == peers


def test_guarantees(tiny_bert, reviews):
    flags = ("--model", tiny_bert, "--train-file", reviews["train"], "--dev-file", reviews["dev"])
    more = ("--epochs", "2", "--batch-size", "10", "--save-steps", "3")
    out = run_script("benchmark", "guarantees", "classification", *flags, *more).stdout
    rows = dict(re.findall(r"^\| ([a-z :,]+) \| (\d+) \|", out, re.M))
    assert rows["a state to resume from"] == "3"  # of ten steps
    assert int(rows["the best model, written atomically"]) >= 1
    assert int(rows["of these: waiting for the disk"]) > 3


def test_metrics():
    for package in ("rouge_score", "seqeval", "torchmetrics"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    out = run_script("benchmark", "metrics", "--items", "50", "--rounds", "1").stdout
    differences = [float(x) for x in re.findall(r"\| (\S+) \|$", out, re.M) if "e" in x]
    assert len(differences) == 3
    assert max(differences) < 1e-5


@pytest.mark.parametrize("words", [(), ("nothing",), ("training",), ("quality", "poetry")])
def test_an_unknown_comparison_is_refused(words):
    done = run_script("benchmark", *words, check=False)
    assert done.returncode == 2
    assert "names no comparison; give" in done.stderr
