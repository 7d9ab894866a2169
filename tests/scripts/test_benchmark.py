"""The comparisons run on tiny models, and both sides compute the same."""

from __future__ import annotations

import doctest
import importlib
import random
import re

import pytest
from support.questions import question
from support.questions import write as write_questions
from support.running import ROOT, run_script

from minift.errors import UserError

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


@pytest.fixture
def compare_checkouts(monkeypatch):
    """scripts/benchmarks/regression.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("benchmarks.regression")


def test_the_examples_of_the_median_interval(compare_checkouts):
    results = doctest.testmod(compare_checkouts)
    assert results.attempted >= 2
    assert results.failed == 0


@pytest.mark.parametrize("n", range(1, 14))
def test_the_interval_is_the_narrowest_that_misses_the_median_in_one_case_of_twenty(
    compare_checkouts, n
):
    """Against a count over all ways in which n values can lie below and above the true median."""

    def missed(k):
        """The share in which fewer than k values are on one side."""
        below = [bin(sides).count("1") for sides in range(2**n)]
        return sum(not k <= b <= n - k for b in below) / 2**n

    wide_enough = [k for k in range(1, n // 2 + 1) if missed(k) <= 0.05]
    expected = (max(wide_enough), n + 1 - max(wide_enough)) if wide_enough else None
    assert compare_checkouts.median_interval(range(n, 0, -1)) == expected
    assert (expected is None) == (n < 6)


def test_the_checkouts_take_turns_and_the_first_pair_is_left_out(compare_checkouts):
    Timed, new, runs = compare_checkouts.Timed, compare_checkouts.NEW, []

    def run(checkout):
        runs.append("new" if checkout == new else "old")
        return Timed(len(runs), [checkout])

    pairs = compare_checkouts.in_turn(run, "another", 3)
    assert runs == ["old", "new", "new", "old", "old", "new", "new", "old"]
    assert [(a.seconds, b.seconds) for a, b in pairs] == [(3, 4), (6, 5), (7, 8)]
    assert all((a.outputs, b.outputs) == ([new], ["another"]) for a, b in pairs)


def test_a_row_shows_the_ratio_its_interval_the_limit_and_what_was_computed(compare_checkouts):
    def pair(ratio, outputs):
        return compare_checkouts.Timed(2 * ratio, outputs), compare_checkouts.Timed(2, ["a", "b"])

    ratios = [0.99, 1.0, 1.01, 1.01, 1.02, 1.02]
    pairs = [pair(ratio, ["a", "b"]) for ratio in ratios]
    assert compare_checkouts.table_row("greedy", pairs) == {
        "run": "greedy",
        "new, s": "2.02",
        "old, s": "2.00",
        "new / old": "1.010",
        "95 % interval": "0.990 ... 1.020",
        "at most 1.03": "yes",
        "same outputs": "2 of 2",
    }
    slow = [pair(ratio + 0.1, ["a", "b"]) for ratio in ratios[1:]] + [pair(1.02, ["a", "c"])]
    row = compare_checkouts.table_row("greedy", slow)
    assert (row["at most 1.03"], row["same outputs"]) == ("undecided", "1 of 2")
    longer = [pair(ratio + 0.1, ["a", "b", "c"]) for ratio in ratios]
    row = compare_checkouts.table_row("greedy", longer)
    assert (row["at most 1.03"], row["same outputs"]) == ("no", "2 of 3")
    row = compare_checkouts.table_row("greedy", pairs[:5])
    assert (row["95 % interval"], row["at most 1.03"]) == ("too few pairs", "undecided")


def test_the_processor_is_named_with_the_flags_that_choose_kernels(compare_checkouts, tmp_path):
    path = tmp_path / "cpuinfo"
    core = "model name\t: Some CPU\nflags\t\t: fpu avx2 {}\n\n"
    path.write_text(core.format("avx512f amx_tile") * 2)
    assert compare_checkouts.describe_processor(path) == "Some CPU (amx_tile avx512f)"
    path.write_text(core.format(""))
    assert compare_checkouts.describe_processor(path) == "Some CPU (neither AVX-512 nor AMX)"


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    done = run_script("benchmark", "regression", tmp_path, check=False)
    assert done.returncode == 2
    assert f"{tmp_path} is no checkout: it has no minift/__init__.py; give" in done.stderr


def test_an_unknown_measurement_is_refused(tmp_path):
    done = run_script("benchmark", "regression", tmp_path, "--only", "poetry", check=False)
    assert done.returncode == 2
    assert "--only is 'poetry'; choose from classification, summarization, greedy" in done.stderr


def test_a_run_that_fails_says_where_and_why(compare_checkouts, tmp_path):
    with pytest.raises(UserError, match=r"generate ended with status 1: it broke") as raised:
        compare_checkouts.run_python(ROOT, tmp_path, "-c", "raise SystemExit('it broke')")
    assert str(ROOT) in str(raised.value)


@pytest.mark.slow
def test_a_checkout_computes_the_same_as_itself(tiny_bert, tiny_t5):
    flags = ("--only", "classification", "summarization", "--pairs", "1")
    models = ("--encoder", tiny_bert, "--seq2seq", tiny_t5, "--records", "8")
    out = run_script("benchmark", "regression", ROOT, *flags, *models).stdout
    assert "below 1, the new one is faster (median of 1 pairs)" in out
    rows = re.findall(r"^\| (\w+) \|.*\| undecided \| (\d+) of (\d+) \|$", out, re.M)
    assert [(name, int(total)) for name, _, total in rows] == [
        ("classification", 259),
        ("summarization", 80),
    ]
    assert all(same == total for _, same, total in rows)


@pytest.mark.slow
def test_another_checkout_is_run_and_its_other_tokens_are_seen(tiny_t5, tmp_path):
    """The stand-in for a checkout has a model of its own, which repeats its input."""
    for name in ("train_classification", "train_summarization"):
        (tmp_path / "old" / "scripts").mkdir(parents=True, exist_ok=True)
        (tmp_path / "old" / "scripts" / f"{name}.py").touch()
    package = tmp_path / "old" / "minift"
    package.mkdir()
    (package / "__init__.py").write_text(
        "class T5ForConditionalGeneration:\n"
        "    class config:\n"
        "        vocab_size = 50\n"
        "    from_pretrained = classmethod(lambda cls, folder: cls())\n"
        "    def generate(self, ids, **settings):\n"
        "        return ids\n"
    )
    flags = ("--only", "beams", "--pairs", "1", "--calls", "1", "--seq2seq", tiny_t5)
    out = run_script("benchmark", "regression", package.parent, *flags).stdout
    assert f"old: {package.parent}\nnew: {ROOT}\n" in out
    assert re.search(r"^\| beams \|.*\| 0 of 8 \|$", out, re.M)
