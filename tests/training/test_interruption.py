"""A script that waits, for whatever, ends on Ctrl-C and SIGTERM with one line, and nothing is left.

Two seconds are promised; the bound here is larger, because many tests may share the machine.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.cases import cases_with
from support.running import ROOT
from support.vocabulary import WORDS

from minift.training.cli import run_script
from minift.training.signals import Interrupted, ends_on_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to processes")

SECONDS = 5.0
INT, TERM = signal.SIGINT, signal.SIGTERM
LINE = "interrupted; a run with --save-steps continues with --resume"

BEGINNING = """
import hashlib, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from minift.terminal import print_line
from minift.training.cli import run_script
from minift.training.signals import Stopped, StopRequest

def deaf(rounds):  # native code, which hears no signal until it returns
    hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)

def main():
    print("ready", file=sys.stderr, flush=True)
"""

# What the script does when the signal comes.
WAITS = {
    "asleep": "time.sleep(60)",
    "in native code": "deaf(10**9)",
    "reading stdin": "sys.stdin.buffer.read()",
    "printing into a full pipe": "while True: print_line('x' * 1000)",
    "for another program": "subprocess.run(['sleep', '60'], capture_output=True)",
    "for a thread at the end": """
    threading.Thread(target=time.sleep, args=[60]).start()
    time.sleep(60)
""",
    "for a pool of threads": """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(time.sleep, 60)
        time.sleep(60)
""",
    "where the exception is swallowed": """
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
""",
}


def started(command: list[object], **options) -> subprocess.Popen:
    """A script in a session of its own, which has printed a first line on stderr."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        start_new_session=True,
        **options,
    )
    assert process.stderr.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen, number: int) -> str:
    """What a script prints on stderr after the signal; it must end in time and leave no process.

    A terminal sends Ctrl-C to all processes; SIGTERM is sent to the first alone.
    """
    began = time.monotonic()
    (os.killpg if number == INT else os.kill)(process.pid, number)
    try:
        process.wait(60)
        assert time.monotonic() - began < SECONDS
        while others := session(process.pid):
            assert time.monotonic() - began < 2 * SECONDS, others
            time.sleep(0.1)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    return process.stderr.read()


def session(leader: int) -> list[str]:
    """The other living processes of a session; on Linux, elsewhere none are seen."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, fields = status.read_text().rsplit(") ", 1)
        except OSError:  # it has ended
            continue
        state, _, _, number, *_ = fields.split()
        if int(number) == leader and state not in "ZX" and status.parent.name != str(leader):
            found.append((status.parent / "cmdline").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wait", "number"),
    cases_with(
        [("in native code", INT), ("reading stdin", TERM)], itertools.product(WAITS, [INT, TERM])
    ),
)
def test_a_script_that_waits_ends(wait, number):
    program = f"{BEGINNING}    {WAITS[wait].strip()}\nrun_script(main)\n"
    process = started(["-c", program])
    time.sleep(0.3)
    assert ended(process, number) == f"{LINE}\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", cases_with([INT], [INT, TERM]))
def test_a_training_loop_may_finish_its_step_unless_there_is_a_second_signal(number):
    loop = """
    with StopRequest() as stop:
        deaf(ROUNDS)
        if stop.requested:
            raise Stopped(stop.requested, "saved")
    print("nobody asked")
run_script(main)
"""
    process = started(["-c", BEGINNING + loop.replace("ROUNDS", "10**7")])
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(60) == 128 + number  # after some seconds
    assert process.stderr.read() == "saved\n"

    process = started(["-c", BEGINNING + loop.replace("ROUNDS", "10**9")])
    time.sleep(0.3)
    process.send_signal(number)
    time.sleep(0.3)
    assert ended(process, number) == f"{LINE}\n"


@pytest.mark.slow
def test_a_signal_that_was_ignored_when_the_script_began_stays_ignored():
    process = started(
        ["-c", f"{BEGINNING}    sys.stdin.read()\nrun_script(main)\n"],
        preexec_fn=lambda: signal.signal(INT, signal.SIG_IGN),
    )
    time.sleep(0.3)
    process.send_signal(INT)
    time.sleep(0.3)
    process.communicate("", timeout=60)
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["return", "sys.stdin.read()"])
def test_ctrl_c_while_python_ends_prints_no_traceback(ends):
    beginning = f"import atexit, time\natexit.register(time.sleep, 60)\n{BEGINNING}"
    process = started(["-c", f"{beginning}    {ends}\nrun_script(main)\n"])
    for _ in range(1 if ends == "return" else 2):
        time.sleep(1.0)
        process.send_signal(INT)
    assert process.wait(SECONDS) == -INT
    assert process.stderr.read() == ("" if ends == "return" else f"{LINE}\n")


def test_the_handlers_are_those_of_before_when_a_script_has_ended():
    before = [signal.getsignal(number) for number in (INT, TERM)]
    descriptor = signal.set_wakeup_fd(-1)
    with pytest.raises(SystemExit) as done:
        run_script(lambda: None)
    assert done.value.code == 0
    with pytest.raises(SystemExit) as done:
        run_script(lambda: os.kill(os.getpid(), TERM))
    assert done.value.code == 143
    assert [signal.getsignal(number) for number in (INT, TERM)] == before
    assert signal.set_wakeup_fd(descriptor) == -1
    deadline = time.monotonic() + SECONDS
    while any(thread.name == "signals" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_cleaning_up_is_not_cut_off_by_a_second_signal():
    cleaned = []

    def script():
        try:
            os.kill(os.getpid(), INT)
        finally:
            os.kill(os.getpid(), INT)
            cleaned.append(True)

    with pytest.raises(Interrupted), ends_on_signals(lambda: None):
        script()
    assert cleaned


@pytest.mark.parametrize("where", ["in another thread", "in an interactive session"])
def test_python_code_keeps_its_handlers(where, monkeypatch):
    seen = []

    def script():
        with ends_on_signals(lambda: None):
            seen.append([signal.getsignal(number) for number in (INT, TERM)])

    if where == "in another thread":
        thread = threading.Thread(target=script)
        thread.start()
        thread.join()
    else:
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
        script()
    assert seen == [[signal.getsignal(number) for number in (INT, TERM)]]


# ---- the scripts themselves ----------------------------------------------------------------------

# Runs a script that says when it enters a function.
WATCHED = """
import importlib, runpy, sys
place, sys.argv = sys.argv[1], sys.argv[2:]
module, *names, name = place.split("/")
owner = importlib.import_module(module)
for part in names:
    owner = getattr(owner, part)
function = getattr(owner, name)

def entered(*args, **options):
    print("ready", file=sys.stderr, flush=True)
    return function(*args, **options)

setattr(owner, name, entered)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def script_in(place: str, script: str, *flags: object) -> subprocess.Popen:
    return started(["-c", WATCHED, place, ROOT / "scripts" / f"{script}.py", *flags])


@pytest.fixture
def much(tmp_path):
    """A function: number of lines -> a file of labelled texts."""

    def write(count: int) -> Path:
        draw, words = random.Random(0), WORDS.split()
        path = tmp_path / f"{count}.tsv"
        with path.open("w") as file:
            for i in range(count):
                file.write(f"{' '.join(draw.choices(words, k=20))}\t{'ab'[i % 2]}\n")
        return path

    return write


CLASSIFICATION = "minift.tasks.classification/ClassificationTask"
PLACES = {
    "reading data": (f"{CLASSIFICATION}/read", 600_000, 10, INT),
    "featurizing": (f"{CLASSIFICATION}/featurize", 300_000, 10, TERM),
    "one evaluation before the loop": ("minift.training.run/check_evaluation", 20, 10, INT),
    "evaluating the best model": ("minift.training.run/evaluate_best_model", 20, 40_000, TERM),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", cases_with(["reading data"], PLACES))
def test_a_training_script_ends_outside_of_its_loop(place, much, tiny_bert, tmp_path):
    function, records, dev_records, number = PLACES[place]
    flags = ["--model", tiny_bert, "--train-file", much(records), "--dev-file", much(dev_records)]
    flags += ["--epochs", 1, "--eval-steps", 10**6, "--output-dir", tmp_path / "out"]
    process = script_in(function, "train_classification", *flags)
    if place != "one evaluation before the loop":  # which is short
        time.sleep(0.5)
    stderr = ended(process, number)
    last = stderr.splitlines()[-1]
    assert last == LINE or last.startswith("stopped after step")
    assert "Traceback" not in stderr
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", cases_with([INT], [INT, TERM]))
def test_the_training_of_a_tokenizer_ends(number, tmp_path):
    draw, text = random.Random(0), tmp_path / "text.txt"
    words = ("".join(draw.choices("abcdefghijkl", k=draw.randint(2, 9))) for _ in range(600_000))
    text.write_text("\n\n".join(" ".join(next(words) for _ in range(30)) for _ in range(20_000)))
    function = "minift.pretraining.vocabulary/trainers/UnigramTrainer"
    process = script_in(
        function, "pretrain", "--train-file", text, "--output-dir", tmp_path / "out"
    )
    time.sleep(1.0)
    assert ended(process, number) == f"{LINE}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "number"),
    cases_with([(12.0, INT)], itertools.product([0.5, 12.0], [INT, TERM])),
)
def test_a_sweep_ends_with_its_processes(number, seconds, reviews, tiny_bert, tmp_path):
    flags = ["--model", tiny_bert, "--train-file", reviews["train"], "--dev-file", reviews["dev"]]
    flags += ["--epochs-list", 4000, "--jobs", 2, "--output-dir", tmp_path / "out"]
    process = script_in("minift.experiments.sweep/call_all", "sweep", "classification", *flags)
    time.sleep(seconds)  # 0.5: the processes import torch; 12: they train
    assert ended(process, number) == f"{LINE}\n"
    # What is left is no obstacle: the same command continues.
    states = [*(tmp_path / "out").glob("*/state/state.json")]
    assert seconds < 1 or states


@pytest.mark.slow
@pytest.mark.parametrize("number", cases_with([INT], [INT, TERM]))
def test_prediction_that_waits_for_a_line_ends(number, reviews, tiny_bert, tmp_path):
    flags = ["--model", tiny_bert, "--train-file", reviews["train"], "--dev-file", reviews["dev"]]
    script = ROOT / "scripts" / "train_classification.py"
    command = [sys.executable, script, *flags, "--epochs", 1, "--output-dir", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*map(str, command)], check=True, capture_output=True, env=environment)
    process = script_in("minift.predictor/task_of", "predict", tmp_path / "out")
    process.stdin.write("so good\n")
    process.stdin.flush()
    time.sleep(1.0)
    assert ended(process, number) == f"{LINE}\n"
