"""Runs that are killed and resumed in processes with other hash seeds, after memory ran out, and
with changed options and data.

    python tests/resuming.py                  40 cases: ten of each task; prints each outcome

A run that may go on must end with the same bits however often it was killed, and every learning
rate in its log must be that of the schedule of its plan.  Any other must be refused by the name of
what changed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from crashing import differences, make_inputs

from minift.training.schedules import SCHEDULES
from minift.training.step import GradientComputer

LEARNING_RATE = 1e-3
WARMUP_RATIO = 0.2
FLAGS = {
    "--learning-rate": LEARNING_RATE,
    "--warmup-ratio": WARMUP_RATIO,
    "--save-steps": 1,
    "--dropout": 0.2,
    "--epochs": 3,
    "--eval-steps": 2,
}


class Refused(Exception):
    """A run ended with status 2; the message is its last line."""


@dataclass
class Failed(Exception):
    """A case came out wrong."""

    why: str


# ---- processes with their own hash seeds ---------------------------------------------------------


class Server:
    """A process with a hash seed of its own, which has imported torch and forks for each run."""

    def __init__(self, hash_seed: int):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        )

    def run(self, command: Mapping[str, Any]) -> int:
        """The status of a run as `os.waitpid` gives it."""
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    """Read commands, run each in a fork, answer with its status."""
    for line in sys.stdin:
        command = json.loads(line)
        pid = os.fork()
        if not pid:
            run_here(command)
        print(os.waitpid(pid, 0)[1], flush=True)


def run_here(command: Mapping[str, Any]) -> None:
    """Run a script and end this process; it dies in a step, or lacks memory in the third one."""
    torch.set_num_threads(1)
    descriptor = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    step, backward, at = GradientComputer.step, GradientComputer._backward, [0]

    def mortal(self: GradientComputer, batches: Any, number: int) -> Any:
        at[0] = number
        if number == command["kill_in"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batches, number)

    def scarce(self: GradientComputer, indices: Any) -> Any:
        if command["memory"] and at[0] == 3 and len(indices) > 2:
            raise MemoryError
        return backward(self, indices)

    GradientComputer.step, GradientComputer._backward = mortal, scarce
    sys.argv = command["argv"]
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# ---- one task's runs -----------------------------------------------------------------------------


class Bench:
    """Runs of one task's script; each process has another hash seed than the one before."""

    def __init__(self, command: list[str], folder: Path, servers: list[Server]):
        given = dict(zip(command[1::2], command[2::2], strict=True))
        self.script, self.flags = command[0], {**given, **FLAGS}
        self.folder, self.servers, self.count = folder, servers, 0
        folder.mkdir(parents=True)

    def start(
        self,
        target: Path,
        changes: Mapping[str, Any] | None = None,
        *more: str,
        kill_in: int = 0,
        memory: bool = False,
    ) -> str:
        """Run in `target` until the end, or until it is killed in a step; returns its output.

        changes: of flags.  memory: it runs out in the third step.
        Raises `Refused` for status 2, and `Failed` for any other end.
        """
        flags = {**self.flags, **(changes or {}), "--output-dir": target}
        argv = [self.script, *(str(part) for pair in flags.items() for part in pair), *more]
        log = self.folder / "printed.log"
        self.count += 1
        server = self.servers[self.count % len(self.servers)]
        status = server.run({"argv": argv, "log": str(log), "kill_in": kill_in, "memory": memory})
        printed = log.read_text(errors="replace")
        if os.WIFSIGNALED(status):
            if not kill_in:
                raise Failed(f"died: {printed[-500:]}")
        elif os.WEXITSTATUS(status) == 2:
            raise Refused(printed.strip().splitlines()[-1])
        elif os.WEXITSTATUS(status) or kill_in:
            raise Failed(f"status {os.WEXITSTATUS(status)}: {printed[-500:]}")
        return printed

    def steps(self) -> int:
        return json.loads((self.straight() / "log.jsonl").read_text().splitlines()[-1])["step"]

    def straight(self, memory: bool = False) -> Path:
        """A run that nothing stopped, made once."""
        target = self.folder / ("straight-memory" if memory else "straight")
        if not target.exists():
            more = ["--auto-micro-batch"] if memory else []
            self.start(target, None, *more, memory=memory)
        return target

    def killed(self, name: str) -> Path:
        """The folder of a run that was killed after its first epoch."""
        target = self.folder / name
        self.start(target, kill_in=self.steps() * 3 // 5)
        return target


def same(first: Path, second: Path) -> None:
    if found := differences(first, second):
        raise Failed("; ".join(found))


def check_rates(folder: Path, planned_from: int = 0) -> None:
    """Every learning rate is within the schedule; after a change, exactly that of the new plan.

    planned_from: the first log line of the new plan.
    """
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    if bad := [row for row in rows if not 0 <= row.get("learning_rate", 0) <= LEARNING_RATE]:
        raise Failed(f"a rate outside of the schedule: {bad[0]}")
    total = rows[-1]["step"]
    warmup = -int(-total * WARMUP_RATIO // 1)
    for row in rows[planned_from:]:
        if "learning_rate" in row:
            planned = LEARNING_RATE * SCHEDULES["linear"](row["step"] - 1, total, warmup)
            if abs(planned - row["learning_rate"]) > 1e-9:
                raise Failed(f"step {row['step']} of {total} has not the rate {planned}: {row}")


# ---- the cases -----------------------------------------------------------------------------------


def killed_once(bench: Bench) -> None:
    target = bench.killed("once")
    bench.start(target, None, "--resume")
    same(bench.straight(), target)
    check_rates(target)


def killed_thrice(bench: Bench) -> None:
    target, steps = bench.folder / "thrice", bench.steps()
    bench.start(target, kill_in=2)
    bench.start(target, None, "--resume", kill_in=steps // 2)
    bench.start(target, None, "--resume", kill_in=steps)
    bench.start(target, None, "--resume")
    same(bench.straight(), target)


def out_of_memory(bench: Bench) -> None:
    target, more = bench.folder / "memory", ["--auto-micro-batch"]
    bench.start(target, None, *more, memory=True, kill_in=bench.steps() * 3 // 5)
    bench.start(target, None, *more, "--resume")
    same(bench.straight(memory=True), target)


def goes_on(changes: Callable[[Bench], Mapping[str, Any]]) -> Callable[[Bench], None]:
    """A case that goes on with changes: the same bits if it is killed again on the way."""

    def case(bench: Bench) -> None:
        changed = changes(bench)
        once = bench.killed(f"changed{bench.count}")
        state = json.loads((once / "state" / "state.json").read_text())
        twice = once.with_name(f"{once.name}-twice")
        shutil.copytree(once, twice)
        printed = bench.start(once, changed, "--resume", "--accept-changes")
        position, total = map(int, re.search(r"resuming at step (\d+) of (\d+)", printed).groups())
        check_rates(once, state["log_lines"])
        bench.start(
            twice, changed, "--resume", "--accept-changes", kill_in=min(position + 2, total)
        )
        bench.start(twice, changed, "--resume")
        same(once, twice)

    return case


def refused(name: str, *values: Any, accept: bool = False) -> Callable[[Bench], None]:
    """A case that is refused by the name of a flag, before anything in the folder changes.

    values: of the flag; the first that the run does not have already.
    """

    def case(bench: Bench) -> None:
        target = bench.killed(f"refused{bench.count}")
        before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
        options = json.loads((target / "options.json").read_text())
        try:
            value = next(v for v in values if v != options[name.strip("-").replace("-", "_")])
            bench.start(
                target, {name: value}, "--resume", *(["--accept-changes"] if accept else [])
            )
        except Refused as error:
            if name not in str(error):
                raise Failed(f"refused without the name {name}: {error}") from None
        else:
            raise Failed(f"{name} is not refused")
        if before != {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}:
            raise Failed("refused, but the folder has changed")
        bench.start(target, None, "--resume")
        same(bench.straight(), target)

    return case


def fewer_records(bench: Bench) -> Mapping[str, Any]:
    """Training data with a third of the records left out."""
    source = Path(bench.flags["--train-file"])
    target = bench.folder / f"fewer{source.suffix}"
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".json":
        value = json.loads(text)
        for article in value["data"]:
            article["paragraphs"] = article["paragraphs"][: -(-len(article["paragraphs"]) * 2 // 3)]
        target.write_text(json.dumps(value), encoding="utf-8")
    else:
        separator = "\n\n" if source.suffix == ".conll" else "\n"
        records = text.strip().split(separator)
        kept = separator.join(records[: len(records) * 2 // 3])
        target.write_text(f"{kept}\n", encoding="utf-8")
    return {"--train-file": target}


CASES: dict[str, Callable[[Bench], None]] = {
    "killed once": killed_once,
    "killed three times": killed_thrice,
    "killed after memory ran out": out_of_memory,
    "a larger batch": goes_on(lambda _: {"--batch-size": 7}),
    "a smaller batch, more accumulation": goes_on(
        lambda _: {"--batch-size": 3, "--gradient-accumulation-steps": 4}
    ),
    "fewer records": goes_on(fewer_records),
    "more epochs": goes_on(lambda _: {"--epochs": 5}),
    "another batch size, not accepted": refused("--batch-size", 8),
    "fewer epochs than were done": refused("--epochs", 1, accept=True),
    "another optimiser": refused("--optimizer", "adafactor", "adamw", accept=True),
}


def with_numbered_labels(command: list[str]) -> None:
    """Rewrite the classification data: 1 and 01 are labels whose values are equal."""
    for flag in ("--train-file", "--dev-file"):
        path = Path(command[command.index(flag) + 1])
        text = path.read_text(encoding="utf-8")
        path.write_text(
            re.sub(
                r"\tpositive$", "\t1", re.sub(r"\tnegative$", "\t01", text, flags=re.M), flags=re.M
            )
        )


def resume_all(chosen: Mapping[str, Callable[[Bench], None]], tasks: list[str]) -> dict[str, str]:
    """Case -> why it failed; empty if it did not."""
    servers = [Server(hash_seed) for hash_seed in (1, 2, 3)]
    outcomes = {}
    try:
        with tempfile.TemporaryDirectory() as place:
            commands = make_inputs(Path(place))
            with_numbered_labels(commands["classification"])
            for task in tasks or commands:
                bench = Bench(commands[task], Path(place, "runs", task), servers)
                for name, case in chosen.items():
                    try:
                        case(bench)
                        why = ""
                    except (Failed, Refused) as error:
                        why = f"{type(error).__name__}: {error}"
                    outcomes[f"{task}: {name}"] = why
                    print(f"{task:15} {name:40} {why or 'as it should'}", flush=True)
    finally:
        for server in servers:
            server.close()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=[])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    outcomes = resume_all(CASES, options.tasks)
    wrong = sum(map(bool, outcomes.values()))
    print(f"{len(outcomes)} cases, {wrong} of them wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
