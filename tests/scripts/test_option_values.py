"""Every option of every script with odd values ends with status 0 or 2 and no half-written folder.

The table is tests/support/option_values.py.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support.cases import cases_with
from support.option_values import DIRECTORY, ROWS, row_of
from support.questions import question
from support.questions import write as write_questions
from support.running import run_script
from support.summaries import example
from support.summaries import write as write_summaries
from support.vocabulary import WORDS

from minift.models.bert import BertConfig, BertModel
from minift.models.t5 import T5Config, T5ForConditionalGeneration
from minift.pretraining.vocabulary import save_unigram, train_unigram
from minift.text.tokenizer import Tokenizer

SECONDS = 60  # after which a run hangs

BERT, T5 = ("--model", "bert"), ("--model", "t5")
TEXTS = ("--train-file", "train.tsv", "--dev-file", "dev.tsv")
TAGS = ("--train-file", "train.conll", "--dev-file", "train.conll")
QUESTIONS = ("--train-file", "train.json", "--dev-file", "train.json")
SUMMARIES = ("--train-file", "train.jsonl", "--dev-file", "train.jsonl", "--max-target-length", "4")
SHORT = ("--epochs", "1", "--batch-size", "4", "--device", "cpu", "--output-dir", "out")
ENCODERS = ("--num-heads", "2", "--num-layers", "1", "--d-model", "16", "--d-ff", "16")
MEASURED = ("--epochs", "1", "--batch-size", "4", "--device", "cpu")

# Script and its words -> flags of a short run that succeeds.
COMMANDS: dict[str, tuple[str, ...]] = {
    "train_classification": (*BERT, *TEXTS, *SHORT),
    "train_ner": (*BERT, *TAGS, *SHORT),
    "train_qa": (*BERT, *QUESTIONS, *SHORT),
    "train_summarization": (*T5, *SUMMARIES, *SHORT),
    "sweep classification": (
        *(*BERT, *TEXTS, "--learning-rates", "1e-3", "--epochs-list", "1", "--batch-sizes", "4"),
        *("--device", "cpu", "--output-dir", "out"),
    ),
    "find_lr classification": (
        *(*BERT, "--train-file", "train.tsv", "--min-steps", "20", "--batch-size", "4"),
        *("--learning-rate", "0.5", "--device", "cpu", "--output-dir", "out"),
    ),
    "compare_decoding": (*T5, *SUMMARIES, *SHORT, "--num-samples", "1"),
    "compare_forgetting": (
        *(*BERT, *TEXTS, "--first-train-file", "dev.tsv", "--first-dev-file", "train.tsv"),
        *(*SHORT, "--seeds", "1"),
    ),
    "compare_freezing": (*BERT, *TEXTS, *SHORT, "--seeds", "1"),
    "compare_label_strategies": (*BERT, *TAGS, *SHORT, "--seeds", "1"),
    "compare_long_contexts": (
        *(*BERT, *QUESTIONS, *SHORT, "--seeds", "1", "--max-lengths", "32", "--join", "2"),
        *("--doc-strides", "4"),
    ),
    "pretrain": (
        *("--train-file", "corpus.txt", "--family", "t5", "--vocab-size", "170", *ENCODERS),
        *("--max-steps", "2", "--batch-size", "2", "--block-size", "16", "--eval-blocks", "1"),
        *("--device", "cpu", "--output-dir", "out"),
    ),
    "predict": ("trained", "--file", "dev.tsv", "--device", "cpu"),
    "get_weights": ("bert",),
    "benchmark quality classification": (*BERT, *TEXTS, *MEASURED, "--seeds", "1"),
    "benchmark training classification": (
        *(*BERT, *TEXTS, *MEASURED, "--rounds", "1", "--steps", "1"),
    ),
    "benchmark inference classification": (*BERT, *TEXTS, *MEASURED, "--rounds", "1"),
    "benchmark head classification": (*BERT, *TEXTS, *MEASURED),
    "benchmark guarantees classification": (*BERT, *TEXTS, *MEASURED),
    "benchmark generation": (
        *("--rounds", "1", "--sources", "1", "--source-length", "2", "--new-tokens", "1"),
    ),
    "benchmark metrics": ("--rounds", "1", "--items", "5"),
    "benchmark regression .": (),
}
# They take the flags of training scripts and use few of them; only their own are tried.
MEASUREMENTS = ("benchmark training", "benchmark inference")
TRAINING = ("train_classification", "train_ner", "train_qa", "train_summarization")
# Scripts of every run of the tests; the others take minutes together.
QUICK = ("predict", "get_weights", "benchmark regression .")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A folder with tiny models, data of a few records, and the odd paths of the table."""
    folder = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), *"abcdefghij"]
    vocab = list(dict.fromkeys(pieces))
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder / "bert")
    (folder / "bert" / "vocab.txt").write_text("\n".join(vocab) + "\n")
    draw = random.Random(1)
    texts = [" ".join(example(draw).values()) for _ in range(99)]
    save_unigram(train_unigram(texts, 170), folder / "t5")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    size = Tokenizer.from_pretrained(folder / "t5").vocab_size
    T5ForConditionalGeneration(T5Config(vocab_size=size, **sizes)).save_pretrained(folder / "t5")
    rows = [("the film was good", "pos"), ("the film was bad", "neg"), ("so good", "pos")]
    text = "".join(f"{text}\t{label}\n" for text, label in rows * 2)
    for name in ("train.tsv", "dev.tsv", "a-file"):
        (folder / name).write_text(text)
    (folder / "train.conll").write_text("so O\nbo B-PER\n\nthe O\nxy B-LOC\n\n" * 4)
    write_questions(folder / "train.json", [question(i, draw) for i in range(8)])
    write_summaries(folder / "train.jsonl", [example(draw) for _ in range(8)])
    (folder / "corpus.txt").write_text("\n\n".join(texts))
    (folder / DIRECTORY).mkdir()
    flags = [*COMMANDS["train_classification"][:-1], "trained"]
    run_script("train_classification", *flags, cwd=folder)
    return folder


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """`TimeoutError` in this context after so many seconds."""

    def end(*_: object) -> None:
        raise TimeoutError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def flags_of(script: str) -> list[str]:
    """The flags that --help-all shows, without those for help."""
    shown = run_script(*script.split(), "--help-all").stdout
    flags = re.findall(r"^  (?:-h, )?(--[a-z0-9-]+)(?:, (--no-[a-z0-9-]+))?", shown, re.MULTILINE)
    return [flag for pair in flags for flag in pair if flag and not flag.startswith("--help")]


def command(script: str, flag: str, value: str | None) -> list[str]:
    """The words of the script's short run, with this value for the flag."""
    row = row_of(script, flag)
    words = [*script.split(), *COMMANDS[script], *row.extra]
    if flag in words:
        start = words.index(flag)
        del words[start : start + 2]
    return [*words, flag if value is None else f"{flag}={value}"]


def problem_of(script: str, flag: str, value: str | None, workspace: Path) -> str | None:
    """Run the script with a value; what is wrong with how it ends, or None."""
    row = row_of(script, flag)
    before = {path.name for path in workspace.iterdir()}
    words = command(script, flag, value)
    try:
        with time_limit(SECONDS):
            done = run_script(*words, check=False, cwd=workspace)
    except Exception as error:
        problem = f"traceback: {type(error).__name__}: {error!s:.200}"
    else:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        new = {path.name for path in workspace.iterdir()} - before
        problem = None
        if done.returncode not in (0, 2):
            problem = f"status {done.returncode}: {last}"
        elif done.returncode == 2 and value in row.accepted:
            problem = f"refused: {last}"
        elif done.returncode == 0 and value not in row.accepted:
            problem = "accepted"
        elif done.returncode == 2 and not last.startswith("error: "):
            problem = f"the last line is {last!r}"
        elif done.returncode == 2 and new and not only_a_log(workspace, new):
            problem = f"refused, but it left {new}"
    for path in workspace.iterdir():
        if path.name not in before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(workspace / DIRECTORY)
    (workspace / DIRECTORY).mkdir()
    return problem and f"{script} {flag} {str(value)!r:.40}: {problem}"


def only_a_log(workspace: Path, new: set[str]) -> bool:
    """Whether a run that failed in training left its log or its record, and no model."""
    out = workspace / "out"
    log = out / "log.jsonl"
    left_a_log = log.exists() and log.stat().st_size > 0
    # A comparison keeps its finished runs, and says which failed.
    recorded = any(out.rglob("failed.json"))
    return new == {"out"} and (recorded or (left_a_log and not [*out.glob("*.safetensors")]))


@pytest.mark.parametrize("script", cases_with(QUICK, COMMANDS))
def test_every_value_of_every_flag(script, workspace, monkeypatch):
    if script.startswith("benchmark"):
        pytest.importorskip("transformers", reason="transformers is not installed")
    else:  # plots take most of the time
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    problems = []
    # Comparisons train many times; a value that training scripts accept is tried there.
    repeats = script.startswith(("compare", "benchmark"))
    shared = {flag for name in TRAINING for flag in flags_of(name)} if repeats else ()
    own_only = script.startswith(MEASUREMENTS)
    for flag in flags_of(script):
        if flag in shared and own_only:
            continue
        problems += [
            problem_of(script, flag, value, workspace)
            for value in row_of(script, flag).values
            if flag not in shared or value not in row_of(script, flag).accepted
        ]
    found = [problem for problem in problems if problem is not None]
    assert not found, "\n".join(found)


def test_the_table_has_every_flag_and_no_other():
    flags = {flag for script in COMMANDS for flag in flags_of(script)}
    assert flags == ROWS.keys()
