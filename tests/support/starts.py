"""Processes that run a script in a fork of this one, and may be ended at one of their operations.

Python tells an audit hook of each operation on files before it is done.  So a process can be ended
with a signal, or made to wait for another one, at an operation of a given number: the same moment
each time.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SECONDS = 60  # of a process; each takes a fraction of one


class Wrong(Exception):
    """Something that must not be: the end of a process, or what it has left."""


@dataclass(frozen=True)
class Start:
    """One process.  at: the operation on files at which it is ended, or waits for the other one.

    number: of the signal that ends it; 0: it waits; None: neither.
    delay: seconds until it begins.
    after: seconds after which it is killed, wherever it is; 0: it is not.
    """

    argv: list[str]
    working_folder: Path
    at: int = 0
    number: int | None = None
    delay: float = 0.0
    after: float = 0.0


@dataclass(frozen=True)
class End:
    """How a process ended: "finished", "refused" or "killed", and its last line on stderr."""

    status: str
    message: str


def begin(start: Start, log: Path, which: int) -> int:
    """Run a script in a fork of this process, which has imported torch; returns its process id."""
    if pid := os.fork():
        return pid
    try:
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for stream, name in ((1, "out"), (2, "err")):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(log.with_suffix(f".{name}{which}"), flags), stream)
        # Those of this process may be pytest's, which keeps what is printed.
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        os.chdir(start.working_folder)
        time.sleep(start.delay)
        operations = watch_operations(start, log)
        sys.argv = start.argv
        status: Any = 1
        try:
            runpy.run_path(start.argv[0], run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        log.with_suffix(f".operations{which}").write_text(str(operations[0]))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    except BaseException as error:  # as the interpreter would end
        print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def watch_operations(start: Start, log: Path) -> list[int]:
    """Count this process's operations on files from now on, and do what a start demands at one."""
    count = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" and not event.startswith(("os.", "shutil.")):
            return
        if event in ("os.putenv", "os.kill", "os.fork") or not concerns_us(arguments):
            return
        count[0] += 1
        if count[0] != start.at or start.number is None:
            return
        if start.number:
            os.kill(os.getpid(), start.number)
            return
        deadline = time.monotonic() + SECONDS / 2
        while not os.path.exists(log.with_suffix(".go")) and time.monotonic() < deadline:
            time.sleep(0.002)

    def concerns_us(arguments: tuple[Any, ...]) -> bool:
        """Whether an operation is on a relative path, or on one of temporary folders."""
        first = arguments[0] if arguments else 0
        if not isinstance(first, (str, bytes, os.PathLike)):
            return True
        path = os.fsdecode(first)
        if path.startswith(str(log)):  # our own files
            return False
        return not os.path.isabs(path) or path.startswith(str(log.parent))

    sys.addaudithook(hook)
    return count


def finish(starts: list[Start], log: Path) -> tuple[list[End], list[int]]:
    """Run processes at the same time: how each ended, and the order in which they did."""
    for path in log.parent.glob(f"{log.name}.*"):
        path.unlink()
    for i in range(len(starts)):
        log.with_suffix(f".err{i}").touch()
    running = {begin(start, log, i): i for i, start in enumerate(starts)}
    ends: dict[int, int | None] = {}
    began = time.monotonic()
    killed = set()
    while running:
        passed = time.monotonic() - began
        for pid, which in list(running.items()):
            if 0 < starts[which].after < passed and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                ends[running.pop(pid)] = status
                log.with_suffix(".go").touch()
            elif passed > SECONDS:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                ends[running.pop(pid)] = None
        time.sleep(0.002)
    return [how_it_ended(ends[i], start, log, i) for i, start in enumerate(starts)], list(ends)


def how_it_ended(status: int | None, start: Start, log: Path, which: int) -> End:
    """`Wrong` for an end that no script may have."""
    printed = log.with_suffix(f".err{which}").read_text(errors="replace")
    lines = printed.splitlines() or [""]
    if status is None:
        raise Wrong(f"hangs: {' '.join(start.argv)}")
    code = os.waitstatus_to_exitcode(status)
    number = signal.SIGKILL if start.after else start.number
    if number and code in (-number, 128 + number):
        return End("killed", lines[-1])
    if code == 0:
        return End("finished", lines[-1])
    others = [line for line in lines[:-1] if not line.startswith(("usage:", "warning:"))]
    if code != 2 or not lines[-1].startswith("error: ") or others:
        raise Wrong(f"status {code} of {' '.join(start.argv)}:\n{printed[-1500:]}")
    return End("refused", lines[-1])
