"""No control character of anybody's data reaches a terminal, whatever the script and its mode.

Labels, texts, columns, file names and folders' names are random strings with controls in them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.cases import cases_with
from support.running import ROOT, Done, run_script
from support.vocabulary import WORDS

from minift.errors import CONTROL_CHARS
from minift.terminal import json_line

SIZE = 4  # characters between two words
SINGLE = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u2028", "\u2029", "\ufeff"]
SINGLE += [
    chr(i) for r in ((0x200B, 0x2010), (0x202A, 0x202F), (0x2060, 0x2070)) for i in range(*r)
]
SINGLE += ["\ufff9", "\ufffb", "\U000e0001", "\U000e0041", "\u061c", "e\u0301", "\U0001f600"]
SEQUENCES = [
    *("\x1b[2J", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x1bP$q\x1b\\", "\x1b[1;31m"),
    *("\x9b31m", "\x9d0;title\x9c", "\r", "\r\n", "\x08\x08", "\x1b[A", "\x1bc", "\x0e"),
    *("\nFORGED ", "\u2028FORGED "),  # would begin a line of the output
]
SURROGATES = ["\udc80", "\udc9b", "\udcff"]  # bytes of a name that is not UTF-8
OWN = re.compile(r"\x1b\[1;3[1-6]m|\x1b\[0m")  # colours
BARS = re.compile(r"\r|\x1b\[A")  # how tqdm goes back


def hostile(draw: random.Random, but: str = "", surrogates: bool = False) -> str:
    """A word and controls.  but: characters to leave out.  surrogates: half pairs too."""
    parts = [draw.choice(WORDS.split()).strip("#")]
    pool = [SINGLE, SEQUENCES, *([SURROGATES] if surrogates else [])]
    parts += [draw.choice(draw.choice(pool)) for _ in range(SIZE)] + ["end"]
    return "".join(c for c in "".join(parts) if c not in but)


def tame(text: str, colours: bool = False, bars: bool = False) -> bool:
    for own in [OWN] * colours + [BARS] * bars:
        text = own.sub("", text)
    assert CONTROL_CHARS.findall(text) == []
    assert not [line for line in text.splitlines() if line.startswith("FORGED")]
    text.encode()
    return True


def check(done: Done, terminal: bool, status: int = 0) -> None:
    assert done.returncode == status, done.stdout + done.stderr
    assert tame(done.stdout, colours=terminal, bars=terminal)
    assert tame(done.stderr, bars=terminal)
    assert status == 1 or "Traceback" not in done.stderr


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ---- data of each task ---------------------------------------------------------------------------


def classification(draw: random.Random, folder: Path, names: list[str]) -> tuple[Path, list[str]]:
    labels = [hostile(draw).strip() for _ in range(3)]
    column, text, extra = (hostile(draw) for _ in range(3))
    rows = [
        {column: labels[i % 3], text: f"{hostile(draw)} {labels[i % 3]}", extra: hostile(draw)}
        for i in range(12)
    ]
    flags = ["--label-column", column, "--text-column", text]
    return write_rows(folder / f"{names[0]}.jsonl", rows), flags


def ner(draw: random.Random, folder: Path, names: list[str]) -> tuple[Path, list[str]]:
    kinds = [hostile(draw).strip() for _ in range(2)]
    rows = [
        {"tokens": [hostile(draw) for _ in range(4)], "tags": [f"B-{kinds[i % 2]}", "O", "O", "O"]}
        for i in range(12)
    ]
    return write_rows(folder / f"{names[0]}.jsonl", rows), []


def qa(draw: random.Random, folder: Path, names: list[str]) -> tuple[Path, list[str]]:
    paragraphs = []
    for i in range(12):
        answer, before = hostile(draw), hostile(draw)
        answers = [{"text": answer, "answer_start": len(before) + 1}]
        asked = {"id": f"{i}{hostile(draw)}", "question": hostile(draw), "answers": answers}
        paragraphs.append({"context": f"{before} {answer} {hostile(draw)}", "qas": [asked]})
    path = folder / f"{names[0]}.json"
    data = [{"title": hostile(draw), "paragraphs": paragraphs}]
    path.write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")
    return path, []


def summarization(draw: random.Random, folder: Path, names: list[str]) -> tuple[Path, list[str]]:
    rows = [
        {"document": f"{hostile(draw)} {hostile(draw)}", "summary": hostile(draw)}
        for _ in range(12)
    ]
    return write_rows(folder / f"{names[0]}.jsonl", rows), []


TASKS = {"classification": classification, "ner": ner, "qa": qa, "summarization": summarization}


@pytest.fixture
def model_of(tiny_bert, tiny_t5):
    """A function: task and a folder's name -> a tiny model in a folder of that name."""

    def place(task: str, name: str) -> Path:
        model = tiny_t5 if task == "summarization" else tiny_bert
        return model.rename(model.with_name(name))

    return place


def file_name(draw: random.Random) -> str:
    """A name that a file system takes."""
    return hostile(draw, but="/\x00")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names of files")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("task", TASKS)
def test_training_and_predicting(task, seed, model_of, tmp_path):
    draw = random.Random(seed)
    names = [file_name(draw) for _ in range(3)]
    names[0] += os.fsdecode(b"\xff\x9b2J")  # safetensors opens no such folder
    path, columns = TASKS[task](draw, tmp_path, names)
    output = tmp_path / names[1]
    for terminal in (False, True):
        flags = ["--model", model_of(task, names[2]) if not terminal else tmp_path / names[2]]
        flags += ["--train-file", path, "--dev-file", path, "--epochs", 2, *columns]
        flags += ["--output-dir", output, *(["--overwrite"] if terminal else [])]
        check(run_script(f"train_{task}", *flags, terminal=terminal), terminal)
    for written in output.iterdir():
        if written.suffix in (".json", ".jsonl", ".md") and not written.name.startswith("token"):
            assert tame(written.read_text(encoding="utf-8")), written.name

    rows = []
    question = ["--question", hostile(draw)] if task == "qa" else []
    given = {"--file": ["--file", path, *columns], "texts": [*question, hostile(draw), "so good"]}
    for inputs in given.values():
        for mode in ([], ["--json"], ["--csv"]):
            for terminal in (False, True):
                words = [output, *mode, *inputs]
                done = run_script("predict", *words, terminal=terminal)
                if mode != ["--csv"] or terminal:
                    check(done, terminal)
                if mode == ["--json"]:
                    rows = [json.loads(line) for line in done.stdout.splitlines()]
                elif mode == ["--csv"] and not terminal:
                    assert cells(done.stdout) == [
                        {name: in_csv(value) for name, value in row.items()} for row in rows
                    ]


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def in_csv(value: object) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


# ---- what is refused -----------------------------------------------------------------------------

SCRIPTS = {
    **{f"train_{task}": [] for task in TASKS},
    **{f"compare_{name}": [] for name in ("decoding", "forgetting", "freezing")},
    **{f"compare_{name}": [] for name in ("label_strategies", "long_contexts")},
    "sweep": ["ner"],
    "find_lr": ["classification"],
    "pretrain": [],
    "predict": [],
    "get_weights": [],
    "benchmark": ["training", "classification"],
}


def test_every_script_is_here():
    assert {path.stem for path in (ROOT / "scripts").glob("*.py")} == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_command_lines(script, tmp_path):
    """Flags, values, names of files, folders and models that are not there."""
    draw = random.Random(script)
    for i in range(6):
        words = [hostile(draw, but="\x00", surrogates=True) for _ in range(3)]
        values = [
            [f"--{words[0]}", words[1]],
            ["--model", words[0]] if script not in ("predict", "get_weights") else [words[0]],
            ["--train-file", words[0], "--dev-file", words[1]],
            ["--seed", words[0]],
            ["--device", words[0]],
            [words[0], words[1], words[2]],
        ][i]
        for terminal in (False, True):
            done = run_script(
                *(script, *SCRIPTS[script], *values), check=False, cwd=tmp_path, terminal=terminal
            )
            check(done, terminal, status=2)
            last = done.stderr.splitlines()[-1]
            assert last.startswith("error: ")


# ---- real terminals and pipes --------------------------------------------------------------------


def in_a_terminal(command: list[str], **variables: str) -> tuple[int, bytes]:
    """The status of a process and what its terminal received."""
    import pty  # Unix only

    main, side = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=side,
        stdout=side,
        stderr=side,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables},
    )
    os.close(side)
    received = b""
    try:
        while part := os.read(main, 65536):
            received += part
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(main)
    return process.wait(60), received


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no pty")
@pytest.mark.parametrize("encoding", cases_with(["ascii"], ["ascii", "latin-1", "utf-8"]))
def test_a_terminal_of_any_encoding(encoding, tiny_bert, tmp_path):
    draw = random.Random(encoding)
    path, _ = ner(draw, tmp_path, [file_name(draw)])
    script = [sys.executable, str(ROOT / "scripts" / "train_ner.py")]
    flags = ["--model", tiny_bert, "--train-file", path, "--dev-file", path, "--epochs", 1]
    command = [*script, *map(str, flags), "--output-dir", str(tmp_path / "out")]
    status, received = in_a_terminal(command, PYTHONIOENCODING=encoding)
    text = received.decode(encoding).replace("\r\n", "\n")  # a terminal's own line end
    assert status == 0, text
    assert tame(text, bars=True)

    script = [sys.executable, str(ROOT / "scripts" / "predict.py"), str(tmp_path / "out")]
    for mode in ([], ["--json"], ["--csv"]):
        command = [*script, hostile(draw, but="\x00"), "é 好", *mode]
        status, received = in_a_terminal(command, PYTHONIOENCODING=encoding)
        text = received.decode(encoding).replace("\r\n", "\n")
        assert status == 0, text
        assert tame(text, colours=mode == [], bars=True)


def test_an_internal_error_has_its_traceback_without_control_characters():
    program = "from minift.training.cli import run_script\ndef main():\n"
    program += "    {}['\\ud800a\\x1b[2J\\u202e']\nrun_script(main)\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    stderr = done.stderr.decode()
    assert done.returncode == 1
    assert tame(stderr)
    assert stderr.startswith("Traceback (most recent call last):\n")
    assert stderr.splitlines()[-1] == r"KeyError: '\ud800a\x1b[2J\u202e'"


def test_a_library_that_was_imported_before_logs_without_control_characters():
    program = "import logging\nfrom minift.training.cli import run_script\n"
    program += "log = logging.getLogger('library')\nlog.addHandler(logging.StreamHandler())\n"
    program += "run_script(lambda: log.warning('the hub says \\x1b[2J'))\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stderr.decode() == "the hub says \\x1b[2J\n"


def test_json_keeps_its_value_and_has_no_control_character():
    draw = random.Random(0)
    for _ in range(2000):
        value = {hostile(draw): [hostile(draw), {"x": hostile(draw)}]}
        line = json_line(value)
        assert json.loads(line) == value
        assert tame(line)
        assert "\n" not in line
        assert "\t" not in line
