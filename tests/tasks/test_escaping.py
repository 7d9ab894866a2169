"""Text from data files can neither control the terminal that shows it nor break a table."""

from __future__ import annotations

import io
import sys

import pytest
from support.running import run_script

from minift.data.columns import TagRecord
from minift.data.read import SummaryRecord
from minift.errors import escape_controls
from minift.reports.tables import markdown_table
from minift.tasks.answers import answer_lines
from minift.tasks.entities import marked_text
from minift.tasks.summaries import SummaryDisplay, SummaryPrediction
from minift.terminal import coloured, joined, print_line

HOSTILE = "it was\x1b[2J\x9b31m\u202egood\x07"  # clears the screen, paints, writes backwards, rings


def tame(text: str) -> bool:
    return text == escape_controls(text) and "\\x1b[2J" in text


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\tb\nc é 好 🙂", "a\tb\nc é 好 🙂"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\x00", "a\\rb\\x00"),
        ("\u2066x\u2069 \x85", "\\u2066x\\u2069 \\x85"),
    ],
)
def test_control_characters_are_escaped(text, seen):
    assert escape_controls(text) == seen
    assert escape_controls(seen) == seen


def test_training_and_predicting(tiny_bert, tmp_path):
    data = tmp_path / "train.tsv"
    data.write_text("".join(f"{HOSTILE} {w}\t{w}{HOSTILE}\n" for w in ("so", "bad") * 4))
    flags = ("--model", tiny_bert, "--train-file", data, "--dev-file", data, "--epochs", "1")
    done = run_script("train_classification", *flags, "--output-dir", tmp_path / "run")
    assert tame(done.stdout)
    assert tame(run_script("predict", tmp_path / "run", HOSTILE).stdout)
    dev = tmp_path / "dev.tsv"
    dev.write_text(f"it was so\t{HOSTILE}\n")
    flags = ("--model", tiny_bert, "--train-file", data, "--dev-file", dev)
    refused = run_script("train_classification", *flags, check=False)
    assert refused.returncode == 2
    assert tame(refused.stderr)


def test_lines_of_each_task():
    found = [{"type": "PER", "text": HOSTILE, "start": 3, "end": 3 + len(HOSTILE), "score": 1.0}]
    marked = marked_text(f"so {HOSTILE} {HOSTILE}", found, ["PER"], colour=True)
    assert tame(marked.replace("\x1b[1;31m", "").replace("\x1b[0m", ""))

    row = {"question": HOSTILE, "predicted": "", "best_span": HOSTILE, "score": 0.5}
    assert tame(answer_lines(row, colour=True))
    parts = {"before": HOSTILE, "answer": HOSTILE, "after": HOSTILE}
    row.update(predicted=HOSTILE, sentence=parts, start=0, end=4)
    assert tame(answer_lines(row, colour=False))

    record = SummaryRecord("0", HOSTILE, ())
    (line,) = SummaryDisplay(None).to_lines([SummaryPrediction(HOSTILE, False)], [record])
    assert tame(line)
    assert TagRecord("0", (HOSTILE,), None).text == HOSTILE  # what is stored stays as it is


def test_only_whole_coloured_text_keeps_its_colours(capsys):
    good = coloured(HOSTILE, 31)
    for text in (good, joined(["so ", good, HOSTILE]), f"so {good}", good + HOSTILE, str(good)[:9]):
        print_line(text)
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("\x1b[1;31m") for line in lines] == [1, 1, 0, 0, 0]
    assert all(
        tame(f"{line}\\x1b[2J".replace("\x1b[1;31m", "").replace("\x1b[0m", "")) for line in lines
    )


def test_without_a_script_too_a_stream_takes_every_character(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    print_line("é 好 \udcff")
    assert stream.buffer.getvalue() == b"\\u00e9 \\u597d \\udcff\n"


def test_tables_keep_their_cells():
    table = markdown_table([{"name": "a|b\nc", "x": HOSTILE}])
    assert tame(table)
    assert table.splitlines()[2].startswith("| a\\|b c | ")
    assert len(table.splitlines()) == 3
