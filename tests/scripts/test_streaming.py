"""Prediction reads streams: memory does not grow with them, and nothing without an end is read."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from itertools import islice

import pytest
from predicting import SCRIPT, make_models
from streaming import SOURCES, measure
from support.cases import cases_with
from support.running import ROOT

from minift.data import lines, streams
from minift.data.columns import read_tagged
from minift.data.read import read_classification, read_summaries
from minift.data.squad import read_squad
from minift.errors import UserError
from minift.predictor import lines_of, predict_lines
from minift.pretraining.corpus import read_documents

# Sources whose memory every run of the tests measures: lines, blocks of lines, pieces of JSON.
BY_DEFAULT = (("single", ""), ("ner", ".conll"), ("qa", ".json"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


def predicted(folder, source, **settings):
    return list(map(json.loads, predict_lines(folder, source, as_json=True, **settings)))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
@pytest.mark.parametrize(
    "source",
    cases_with([s for s in SOURCES if (s.model, s.ending) in BY_DEFAULT], SOURCES),
    ids=lambda source: f"{source.model} {source.name}",
)
def test_memory_does_not_grow_with_the_records(models, tmp_path, source):
    """4,000 records more, of 5 kB each, would take 20 MB; two parts of them take less than 5."""
    (few, _), (many, results) = (
        measure(source, tmp_path, models[source.model], count, width=5000) for count in (600, 4600)
    )
    assert results == 4600
    assert many < few + 10


class Endless(io.RawIOBase):
    """Zeros without end; counts those that were read."""

    read_bytes = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        buffer[:] = bytes(len(buffer))
        self.read_bytes += len(buffer)
        return len(buffer)


def test_a_line_without_end_on_standard_input_is_refused():
    raw = Endless()
    stdin = io.TextIOWrapper(io.BufferedReader(raw), encoding="utf-8")
    with pytest.raises(UserError, match="input 1: has more than 10,000,000 bytes; divide"):
        next(lines_of(stdin))
    assert raw.read_bytes < 11_000_000
    with pytest.raises(UserError, match="standard input is closed"):
        next(lines_of(None))


def test_the_longest_line_on_standard_input(monkeypatch):
    monkeypatch.setattr("minift.predictor.MAX_LINE_BYTES", 4)
    stdin = io.TextIOWrapper(io.BytesIO(b"abc\nabcd"), encoding="utf-8")
    assert list(lines_of(stdin)) == ["abc\n", "abcd"]
    stdin = io.TextIOWrapper(io.BytesIO(b"abc\nabcd\n"), encoding="utf-8")
    with pytest.raises(UserError, match="input 2"):
        list(lines_of(stdin))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files")
@pytest.mark.parametrize("name", ["single", "ner", "qa", "summaries"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_as_a_file_is_refused(models, tmp_path, name, kind):
    path = tmp_path / "x.txt"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for questions in ((), ("who?",)) if name == "qa" else ((),):
        with pytest.raises(UserError, match=r"x\.txt: is a pipe or a device.*standard input"):
            predicted(models[name], path, questions=questions)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files")
@pytest.mark.parametrize(
    ("read", "name"),
    [
        (read_classification, "x.tsv"),
        (read_classification, "x.csv"),
        (read_classification, "x.jsonl.gz"),
        (read_summaries, "x.jsonl"),
        (read_tagged, "x.conll"),
        (read_squad, "x.json"),
        (lambda path: list(read_documents([path])), "x.txt"),
        (lambda path: list(read_documents([path])), "x.txt.xz"),
    ],
)
def test_every_reader_refuses_what_is_no_file(tmp_path, read, name):
    path = tmp_path / name
    with pytest.raises(UserError, match="no such file; check the path"):
        read(path)
    path.symlink_to("nowhere")
    with pytest.raises(UserError, match="no such file; its link points nowhere"):
        read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a pipe or a device, not a file"):
        read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="is a directory; give a file"):
        read(path)


def test_a_gzip_without_line_ends_is_refused_before_it_is_read(models, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 3_000_000)
    for name in ("x.tsv.gz", "x.csv.gz", "x.jsonl.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(b"text\na\n" + b"a" * 5_000_000))
        with pytest.raises(UserError, match="line 3: has more than 3,000,000 bytes"):
            next(predict_lines(models["single"], path))


def test_results_before_a_bad_record_are_printed_behind_the_first_part(models, tmp_path):
    path = tmp_path / "x.tsv"
    for good, printed in ((1000, 0), (1500, 1500)):
        path.write_text("good\tpos\n" * good + "so bad\n")
        results = predict_lines(models["single"], path)
        assert sum(1 for _ in islice(results, printed)) == printed
        with pytest.raises(UserError, match=f"line {good + 1}: the number of columns is 1"):
            next(results)


def test_a_column_that_comes_late_is_left_out_of_csv_with_a_warning(models, tmp_path):
    path, warnings = tmp_path / "x.jsonl", []
    rows = [{"text": "good"}] * 1500 + [{"text": "bad", "late": 1}] * 2
    path.write_text("\n".join(map(json.dumps, rows)))
    header, *results = predict_lines(models["single"], path, as_csv=True, warn=warnings.append)
    assert "late" not in header
    assert len(results) == 1502
    assert warnings == [
        "2 records have a column that the first part of the file lacks, such as 'late', which "
        "--csv leaves out; --json writes it"
    ]


def test_unknown_labels_are_counted_over_the_whole_file(models, tmp_path):
    path, warnings = tmp_path / "x.tsv", []
    path.write_text("good\tpos\n" * 1500 + "so\tother\n")
    assert len(list(predict_lines(models["single"], path, warn=warnings.append))) == 1501
    (warning,) = warnings
    assert "1 of 1501 records" in warning
    assert "line 1501" in warning


@pytest.mark.parametrize(
    ("name", "flags", "source"),
    [("ner", (), "a " * 600_000), ("qa", ("who?",), "a " * 600_000), ("ner", (), "x.conll")],
)
def test_a_text_that_is_read_in_windows_has_a_limit(models, tmp_path, name, flags, source):
    inputs = [source]
    if source == "x.conll":
        inputs = tmp_path / source
        inputs.write_text("ada O\n" * 300_000)
    with pytest.raises(UserError, match=r"has more than 1,000,000 characters.*divide"):
        predicted(models[name], inputs, questions=flags)


def test_a_sentence_of_columns_and_a_document_have_a_limit(models, tmp_path, monkeypatch):
    monkeypatch.setattr("minift.data.columns.MAX_LINE_BYTES", 100)
    path = tmp_path / "x.conll"
    path.write_text("ada O\n" * 20 + "\n" + "ada O\n" * 30)
    with pytest.raises(UserError, match="line 42: the sentence has more than 100"):
        read_tagged(path)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    text = tmp_path / "x.txt"
    text.write_text("so it was\n" * 30)
    for name, flags in (("summaries", ()), ("qa", ("who?",))):
        with pytest.raises(UserError, match=r"x\.txt: is one text, and has more than 100"):
            predicted(models[name], text, questions=flags)


def test_texts_that_are_typed_are_predicted_one_by_one(models):
    typed = []

    def lines():
        for number in range(3):
            typed.append(number)
            yield "good\n"

    results = predict_lines(models["single"], lines(), at_once=True)
    next(results)
    assert typed == [0]
    next(results)
    assert typed == [0, 1]


def test_a_part_of_a_stream_is_bounded_in_records_and_characters(monkeypatch):
    monkeypatch.setattr(streams, "PART_RECORDS", 3)
    monkeypatch.setattr(streams, "PART_CHARACTERS", 10)
    stream = iter(["a", "b", "c", "d", "e" * 50, "f"])
    parts = [list(streams.part_of(stream)) for _ in range(3)]
    assert parts == [["a", "b", "c"], ["d", "e" * 50], ["f"]]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no closed pipes of this kind")
def test_a_reader_that_stops_ends_prediction_quietly(models):
    command = [sys.executable, str(SCRIPT), str(models["single"])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        process.stdin.write(b"good\n" * 3000)
        process.stdin.flush()
        assert process.stdout.readline().endswith(b"good\n")  # before standard input ends
        process.stdout.close()
        process.stdin.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""
