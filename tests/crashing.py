"""Runs of all four tasks, killed at random moments and resumed until they end.

    python tests/crashing.py --kills 200          a nightly run; prints the outcome of each task

Each run must end with the same bits and log as a run that was never killed, and no kill may lose
more steps than lie between two saves.  Kills fall anywhere between reading the data and writing the
last file, saves included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import runpy
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from minift import T5Config, T5ForConditionalGeneration, Tokenizer
from minift.data.read import builtin
from minift.models.bert import BertConfig, BertModel
from minift.pretraining.vocabulary import (
    save_unigram,
    save_wordpiece,
    train_unigram,
    train_wordpiece,
)

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SAVE_STEPS = 3
SIZE = {"classification": 48, "ner": 40, "qa": 2, "summarization": 24}  # records, or passages


@dataclass
class Outcome:
    """Counts and errors of one task's runs."""

    kills: int = 0
    runs: int = 0
    resumed: int = 0
    in_a_save: int = 0  # kills that left a half-written state or file
    most_steps_lost: int = 0
    wrong: list[str] = field(default_factory=list)


def make_inputs(folder: Path) -> dict[str, list[str]]:
    """Write tiny models and a part of each built-in set; task -> its script's command line."""
    torch.manual_seed(0)
    text = builtin("reviews.train.tsv").read_text(encoding="utf-8")[:60_000]
    bert, t5 = folder / "bert", folder / "t5"
    save_wordpiece(train_wordpiece(text.splitlines(), 600), bert)
    tokens = Tokenizer.from_pretrained(bert)
    config = BertConfig(
        vocab_size=tokens.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=tokens.pad_token_id,
    )
    BertModel(config).save_pretrained(bert)
    save_unigram(train_unigram(text.splitlines(), 400), t5)
    size = Tokenizer.from_pretrained(t5).vocab_size
    T5ForConditionalGeneration(
        T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    ).save_pretrained(t5)

    commands = {}
    names = {"classification": "reviews.{}.tsv", "ner": "ner.{}.conll", "qa": "qa.{}.json"}
    for task, count in SIZE.items():
        flags = ["--model", str(t5 if task == "summarization" else bert), "--device", "cpu"]
        for split in ("train", "dev"):
            source = builtin(names.get(task, "reports.{}.jsonl").format(split))
            target = folder / source.name
            target.write_text(part_of(source.read_text(encoding="utf-8"), source.suffix, count))
            flags += [f"--{split}-file", str(target)]
        flags += ["--epochs", "2", "--batch-size", "4", "--gradient-accumulation-steps", "2"]
        flags += ["--logging-steps", "1", "--eval-steps", "4", "--save-steps", str(SAVE_STEPS)]
        flags += ["--max-length", "128"]
        if task == "summarization":
            flags += ["--max-target-length", "12", "--freeze-layers", "0"]
        commands[task] = [str(SCRIPTS / f"train_{task}.py"), *flags]
    return commands


def part_of(text: str, kind: str, count: int) -> str:
    """The first `count` records of a built-in file."""
    if kind == ".json":
        value = json.loads(text)
        return json.dumps({**value, "data": value["data"][:count]})
    separator = "\n\n" if kind == ".conll" else "\n"
    return separator.join(text.split(separator)[:count]) + "\n"


def begin(command: list[str], folder: Path, log: Path, *more: str) -> int:
    """Run a script in a fork of this process, which has imported torch; returns its process id."""
    log.unlink(missing_ok=True)  # the output of the process before
    pid = os.fork()
    if pid:
        return pid
    try:
        torch.set_num_threads(1)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.argv = [*command, "--output-dir", str(folder), *more]
        runpy.run_path(command[0], run_name="__main__")
        os._exit(0)
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 0)
    except BaseException:
        os._exit(99)


def wait_for_training(pid: int, log: Path) -> None:
    """Wait until the script has printed the model's parameters, just before it trains."""
    while not (log.exists() and "parameters," in log.read_text(errors="replace")):
        # WNOWAIT leaves the status of an ended process to the caller.
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)


def last_step(folder: Path) -> int:
    """The last step in the log of a run."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    steps = [0]
    for line in lines:
        found = re.match(r'\{"step": (\d+)', line)
        steps.append(int(found[1]) if found else 0)
    return max(steps)


def left_over(folder: Path) -> bool:
    """Whether a process was killed while it wrote a file."""
    hidden = [path.name for path in folder.rglob(".*")] if folder.exists() else []
    return any(name.endswith((".tmp", ".new", ".old")) for name in hidden)


def crash(command: list[str], folder: Path, kills: int, draw: random.Random) -> Outcome:
    """Run once without a kill, then repeatedly with kills, until there were `kills` of them."""
    outcome = Outcome()
    straight, log = folder / "straight", folder / "printed.log"
    pid = begin(command, straight, log)
    wait_for_training(pid, log)
    began = time.monotonic()
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"{command[0]}: {log.read_text()[-2000:]}")
    whole = time.monotonic() - began
    while outcome.kills < kills:
        target = folder / f"run{outcome.runs}"
        outcome.runs += 1
        steps_before = 0
        for attempt in range(1000):
            resume = (target / "options.json").exists()
            pid = begin(command, target, log, *(["--resume"] if resume else []))
            if attempt < 6 and outcome.kills < kills:
                if draw.random() < 0.9:  # else it may be killed before it trains
                    wait_for_training(pid, log)
                time.sleep(draw.uniform(0, whole))
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            printed = log.read_text(errors="replace") if log.exists() else ""
            found = re.search(r"resuming at step (\d+)", printed)
            if found:
                outcome.resumed += 1
                lost = steps_before - int(found[1])
                outcome.most_steps_lost = max(outcome.most_steps_lost, lost)
            if os.WIFSIGNALED(status):
                outcome.kills += 1
                outcome.in_a_save += left_over(target)
                steps_before = last_step(target)
            elif os.WEXITSTATUS(status):
                outcome.wrong.append(f"exit {os.WEXITSTATUS(status)}: {printed[-500:]}")
                break
            if (target / "metrics.json").exists():
                break
        else:
            outcome.wrong.append("does not end")
        outcome.wrong += differences(straight, target)
    return outcome


def differences(straight: Path, other: Path) -> list[str]:
    """The differences of two runs that should be equal."""
    found = []
    for name in ("log.jsonl", "predictions.dev.jsonl", "config.json"):
        if (
            not (other / name).exists()
            or (straight / name).read_bytes() != (other / name).read_bytes()
        ):
            found.append(f"{other.name}/{name} differs")
    if not (other / "model.safetensors").exists():
        return [*found, f"{other.name} has no model"]
    ours, theirs = (load_file(path / "model.safetensors") for path in (straight, other))
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[k], theirs[k]) for k in ours):
        found.append(f"{other.name}: the weights differ")
    leftovers = [path.name for path in other.iterdir() if path.name.startswith(".")]
    return found + [f"{other.name}: {name} was left" for name in leftovers]


def crash_all(kills: int, seed: int) -> dict[str, Outcome]:
    """The same number of kills for each task."""
    draw = random.Random(seed)
    outcomes = {}
    with tempfile.TemporaryDirectory() as place:
        for task, command in make_inputs(Path(place)).items():
            folder = Path(place, task)
            folder.mkdir()
            outcomes[task] = crash(command, folder, max(1, kills // len(SIZE)), draw)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes = crash_all(options.kills, options.seed)
    for task, o in outcomes.items():
        print(
            f"{task:15} {o.kills} kills in {o.runs} runs, {o.in_a_save} of them during a write; "
            f"{o.resumed} times resumed, at most {o.most_steps_lost} steps lost "
            f"(saved every {SAVE_STEPS}); {len(o.wrong)} wrong"
        )
        for what in o.wrong[:5]:
            print(f"    {what}")
    sys.exit(any(o.wrong or o.most_steps_lost > SAVE_STEPS for o in outcomes.values()))


if __name__ == "__main__":
    main()
