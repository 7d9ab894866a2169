"""Long contexts: joined paragraphs keep their answers; the comparison runs as users run it."""

from __future__ import annotations

import json
import random

import pytest
from support.questions import question, write
from support.running import last_line_of_refusal, run_script

from minift.experiments.long_contexts import LongContextOptions, join_paragraphs


def test_joined_paragraphs_keep_their_answers():
    draw = random.Random(0)
    records = [question(i, draw, answer=i % 4 > 0) for i in range(11)]
    for count in (1, 2, 5, 99):
        joined = join_paragraphs(records, count)
        assert [r.id for r in joined] == [r.id for r in records]
        for before, after in zip(records, joined, strict=True):
            assert before.context in after.context
            assert len(before.answers) == len(after.answers)
            for answer in after.answers:
                assert after.context.startswith(answer.text, answer.start)
    assert len({r.context for r in join_paragraphs(records, 5)}) == 3


def test_joining_nothing_is_refused():
    with pytest.raises(ValueError, match="--join is 0"):
        LongContextOptions(join=0)


@pytest.mark.slow
def test_the_comparison(tiny_bert, tmp_path):
    draw = random.Random(0)
    train = write(tmp_path / "train.json", [question(i, draw, answer=i % 3 > 0) for i in range(24)])
    dev = write(tmp_path / "dev.json", [question(i, draw, answer=i % 3 > 0) for i in range(12)])
    folder = tmp_path / "out"
    flags = ["--model", tiny_bert, "--train-file", train, "--dev-file", dev, "--epochs", 1]
    flags += [
        "--seeds",
        2,
        "--max-lengths",
        16,
        24,
        "--doc-strides",
        0,
        4,
        15,
        "--output-dir",
        folder,
    ]
    shown = run_script("compare_long_contexts", *flags).stdout
    table = (folder / "windows.md").read_text()
    assert table.strip() in shown
    rows = [line.split(" | ")[:2] for line in table.splitlines()[2:]]
    # A question of three tokens and three special ones leave 10 of 16.
    assert [[w.strip("| "), o] for w, o in rows] == [
        *(["16", o] for o in ("0", "4")),
        *(["24", o] for o in ("0", "4", "15")),
    ]
    thresholds = (folder / "thresholds.md").read_text()
    assert "never an answer" in thresholds
    seeds = [json.loads((folder / f"seed{i}" / "metrics.json").read_text()) for i in (1, 2)]
    assert seeds[0]["dev"]["total"] == 12
    # A second call uses the finished runs.
    assert "--- train" not in run_script("compare_long_contexts", *flags).stdout


def test_without_dev_there_is_nothing_to_compare_on(tiny_bert, tmp_path):
    train = write(tmp_path / "train.json", [question(0, random.Random(0))])
    flags = ["--model", tiny_bert, "--train-file", train, "--output-dir", tmp_path / "out"]
    done = run_script("compare_long_contexts", *flags, check=False)
    assert done.returncode == 2
    assert "--dev-file" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max-lengths": 512}, "--max-lengths has 512, but"),
        ({"max-lengths": 8, "doc-strides": 6}, "leaves no room for any of --doc-strides"),
    ],
)
def test_windows_are_checked_before_training(
    tiny_bert, tmp_path, monkeypatch, capsys, changes, words
):
    path = write(tmp_path / "a.json", [question(i, random.Random(i)) for i in range(4)])
    flags = {"model": tiny_bert, "train-file": path, "dev-file": path, "join": 2}
    flags = {**flags, "output-dir": tmp_path / "out", **changes}
    assert words in last_line_of_refusal("compare_long_contexts", flags, monkeypatch, capsys)
    assert not (tmp_path / "out").exists()
