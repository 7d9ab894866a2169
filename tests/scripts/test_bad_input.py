"""Bad input ends as the contract says: status 2, a last line on stderr that names the place, the
value and the remedy, no traceback, no model left behind."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest
from support.running import ROOT, last_line_of_refusal, run_script


def write(path, data) -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def break_config(folder, text):
    (folder / "config.json").write_text(text)


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


# name -> (what to spoil, flags to add or change, words that the last line must hold)
CASES = {
    "missing training file": (None, {"train-file": "nowhere.tsv"}, ["nowhere.tsv", "no such file"]),
    "training file is a folder": (None, {"train-file": "."}, ["directory"]),
    "empty file": (lambda f, t: write(t["train"], ""), {}, ["train.tsv", "no record"]),
    "no label column": (
        lambda f, t: write(t["train"], "only a text\n"),
        {},
        ["train.tsv, line 1", "label"],
    ),
    "too many columns": (
        lambda f, t: write(t["train"], "a\tb\tc\td\te\n"),
        {},
        ["train.tsv, line 1", "5"],
    ),
    "empty text": (
        lambda f, t: write(t["train"], "good\tpos\n \tneg\n"),
        {},
        ["train.tsv, line 2", "empty"],
    ),
    "wrong encoding": (
        lambda f, t: write(t["train"], b"good\tpos\ncaf\xe9\tneg\n"),
        {},
        ["train.tsv, line 2", "0xE9", "UTF-8"],
    ),
    "UTF-16": (
        lambda f, t: write(t["train"], "good\tpos\n".encode("utf-16")),
        {},
        ["train.tsv, line 1", "UTF-8"],
    ),
    "damaged gzip": (
        lambda f, t: write(t["train"].parent / "x.tsv.gz", gzip.compress(b"good\tpos\n" * 99)[:20]),
        {"train-file": "x.tsv.gz"},
        ["x.tsv.gz", "gzip"],
    ),
    "unknown kind of file": (
        lambda f, t: write(t["train"].parent / "x.parquet", "PAR1"),
        {"train-file": "x.parquet"},
        ["x.parquet", ".tsv"],
    ),
    "JSON lines that are not": (
        lambda f, t: write(t["train"].parent / "x.jsonl", '{"text": "a", "label": "b"}\n{"text"\n'),
        {"train-file": "x.jsonl"},
        ["x.jsonl, line 2", "JSON"],
    ),
    "CSV without the column": (
        lambda f, t: write(t["train"].parent / "x.csv", "body,label\na,b\n"),
        {"train-file": "x.csv"},
        ["x.csv", "'text'", "body"],
    ),
    "unseen dev label": (
        lambda f, t: write(t["dev"], "good\tpos\nbad\tmaybe\n"),
        {},
        ["dev.tsv, line 2", "'maybe'", "neg, pos"],
    ),
    "header of a TSV": (
        lambda f, t: write(t["dev"], "review\tsentiment\n" + t["dev"].read_text()),
        {},
        ["dev.tsv, line 1", "--text-column review --label-column sentiment"],
    ),
    "single texts beside pairs": (
        lambda f, t: write(t["dev"], "good\tfilm\tpos\n"),
        {},
        ["dev.tsv, line 1", "a pair of texts", "train.tsv, line 1"],
    ),
    "positive label": (None, {"positive-label": "spam"}, ["--positive-label", "'neg', 'pos'"]),
    "one label only": (lambda f, t: write(t["train"], "good\tpos\n"), {}, ["train.tsv", "'pos'"]),
    "model folder missing": (None, {"model": "./no-model"}, ["no-model"]),
    "model that nobody has": (None, {"model": "nobody/nothing"}, ["nobody/nothing"]),
    "truncated weights": (
        lambda f, t: cut(f / "model.safetensors", 0.7),
        {},
        ["model.safetensors", "again"],
    ),
    "lying weights": (
        lambda f, t: write(f / "model.safetensors", (2**60).to_bytes(8, "little") + b"{}" * 99),
        {},
        ["model.safetensors", "again"],
    ),
    "no weights": (lambda f, t: (f / "model.safetensors").unlink(), {}, ["model.safetensors"]),
    "config that is not JSON": (
        lambda f, t: break_config(f, '{\n  "model_type": "bert",,\n}'),
        {},
        ["config.json, line 2", "JSON"],
    ),
    "config that does not fit": (
        lambda f, t: change_config(f, intermediate_size=96),
        {},
        ["encoder.layer.0.intermediate.dense.weight", "(64, 32)", "(96, 32)"],
    ),
    "unknown family": (
        lambda f, t: change_config(f, model_type="gpt2"),
        {},
        ["config.json", "'gpt2'", "bert"],
    ),
    "no tokenizer": (lambda f, t: (f / "vocab.txt").unlink(), {}, ["vocab.txt"]),
    "damaged tokenizer": (
        lambda f, t: write(f / "tokenizer.json", '{"version": "1.0"}'),
        {},
        ["tokenizer.json"],
    ),
    "tokenizer of another model": (
        lambda f, t: write(f / "vocab.txt", (f / "vocab.txt").read_text() + "one\ntwo\n"),
        {},
        ["tokenizer", "embeddings"],
    ),
    "unknown flag": (None, {"learning-rat": "1e-3"}, ["--learning-rat", "--help"]),
    "value of another type": (None, {"epochs": "many"}, ["--epochs", "'many'"]),
    "value out of range": (None, {"batch-size": "0"}, ["--batch-size", "0"]),
    "choice that is none": (None, {"pooling": "max"}, ["--pooling", "'max'", "mean"]),
    "length beyond the model": (None, {"max-length": "999"}, ["--max-length", "999", "64"]),
    "metric that is none": (
        None,
        {"metric-for-best-model": "bleu"},
        ["--metric-for-best-model", "'bleu'", "accuracy"],
    ),
    "GPU that is not there": (None, {"device": "cuda:99"}, ["--device", "cuda:99"]),
    "device that is none": (None, {"device": "tpu"}, ["--device", "'tpu'"]),
}


def flags_of(tiny_bert, reviews, folder, **changes) -> dict[str, str]:
    return {
        "model": str(tiny_bert),
        "train-file": str(reviews["train"]),
        "dev-file": str(reviews["dev"]),
        "output-dir": str(folder),
        "epochs": "1",
        "device": "cpu",
        **changes,
    }


def command(tiny_bert, reviews, folder) -> list[str]:
    flags = flags_of(tiny_bert, reviews, folder)
    return [part for name, value in flags.items() for part in (f"--{name}", value)]


@pytest.mark.parametrize(("spoil", "changes", "words"), CASES.values(), ids=CASES)
def test_bad_input(tiny_bert, reviews, tmp_path, monkeypatch, capsys, spoil, changes, words):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out"
    if spoil is not None:
        spoil(tiny_bert, reviews)
    flags = flags_of(tiny_bert, reviews, folder, **changes)
    last = last_line_of_refusal("train_classification", flags, monkeypatch, capsys)
    assert all(word in last for word in words), last
    assert not folder.exists()


def test_existing_output_directories_are_safe(tiny_bert, reviews, tmp_path):
    folder = tmp_path / "out"
    flags = command(tiny_bert, reviews, folder)
    run_script("train_classification", *flags)
    kept = (folder / "model.safetensors").read_bytes()
    for more, words in {
        (): ["--resume", "--overwrite"],
        ("--resume",): ["finished", "--overwrite"],
        ("--resume", "--overwrite"): ["exclude"],
    }.items():
        done = run_script("train_classification", *flags, *more, check=False)
        assert done.returncode == 2, done.stderr
        assert all(word in done.stderr.splitlines()[-1] for word in words), done.stderr
        assert (folder / "model.safetensors").read_bytes() == kept
    run_script("train_classification", *flags, "--overwrite", "--seed", "5")
    assert (folder / "model.safetensors").read_bytes() != kept

    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    done = run_script(
        "train_classification", *command(tiny_bert, reviews, precious), "--overwrite", check=False
    )
    assert done.returncode == 2
    assert (precious / "thesis.txt").exists()


def test_prediction_with_bad_input(tiny_bert, tmp_path):
    for arguments, words in {
        (tmp_path / "nothing", "a text"): ["nothing"],
        (tiny_bert, "a text"): ["config.json", "BertModel"],
    }.items():
        done = run_script("predict", *arguments, check=False)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert all(word in done.stderr.splitlines()[-1] for word in words)


@pytest.mark.slow
def test_an_internal_error_is_a_traceback_and_status_1(tmp_path):
    program = tmp_path / "broken.py"
    program.write_text(
        "from minift.training.cli import run_script\n"
        "def main():\n    raise KeyError('a bug')\n"
        "run_script(main)\n"
    )
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        (["--device", "tpu"], "--device is 'tpu'; it must be auto, cpu, cuda or cuda:N"),
        (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
    ],
)
def test_predict_refuses_flags_as_training_does(flags, words, tmp_path):
    done = run_script("predict", tmp_path, "a text", *flags, check=False)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
