"""What fuzzes share: a case in a process of its own, outcomes counted, and the command line."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

try:
    import resource
except ImportError:  # Windows, where these programs do not run
    resource = None

CPU_SECONDS, MEMORY = 2.0, 500_000_000
WAIT_SECONDS = 60
MAX_ADDRESS_SPACE = 16 * 2**30  # of a child, to protect the machine

# Counts of (target, outcome), and (seed, target, message) of each failure.
Outcomes = tuple[Counter[tuple[str, str]], list[tuple[int, str, str]]]


def tally(seeds: Iterable[int], try_case: Callable[[int], tuple[str, str, str]]) -> Outcomes:
    """try_case: seed -> (target, outcome, message); the outcome "failed" is a failure."""
    found: Counter[tuple[str, str]] = Counter()
    failures = []
    for seed in seeds:
        target, outcome, why = try_case(seed)
        found[target, outcome] += 1
        if outcome == "failed":
            failures.append((seed, target, why))
    return found, failures


def run_apart(work: Callable[[], tuple[str, str]], log: Path) -> tuple[str, str]:
    """`work` in a forked process: its (outcome, message).

    The outcome is "failed" where the process takes more than `CPU_SECONDS` of its own processor
    time, which other programs on the machine hardly change, adds more than `MEMORY` to that of its
    parent, or waits longer than `WAIT_SECONDS` by the clock.  It is "panicked" where Rust has
    printed lines of its own before the work was refused.

    log: takes the stderr of the process.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
            before = memory("VmRSS")
            limit = memory("VmSize") + MAX_ADDRESS_SPACE
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
            outcome, why = work()
            answer = json.dumps([outcome, why[-8000:], memory("VmHWM") - before])
            os.write(writer, answer.encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        hangs = not select.select([pipe], [], [], WAIT_SECONDS)[0]
        if hangs:
            os.kill(pid, signal.SIGKILL)
        answer = pipe.read()
    _, status, usage = os.wait4(pid, 0)
    printed = log.read_text(errors="replace")[-2000:]
    cpu = usage.ru_utime + usage.ru_stime
    if hangs:
        return "failed", f"hangs: no answer within {WAIT_SECONDS} s, {cpu:.1f} s computed"
    if not answer:
        return "failed", f"the process died (status {status}): {printed}"
    outcome, why, peak = json.loads(answer)
    if outcome != "failed" and (cpu > CPU_SECONDS or peak > MEMORY):
        return "failed", f"takes {cpu:.1f} s and {peak / 1e6:.0f} MB, then: {outcome} {why}"
    return "panicked" if outcome == "refused" and "panicked at" in printed else outcome, why


def memory(name: str) -> int:
    """A size of this process in bytes, such as VmHWM, the peak of its memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def command_line(
    description: str,
    fuzz: Callable[[int, int], Outcomes],
    count: int,
    outcomes: Sequence[str],
) -> NoReturn:
    """Run a fuzz on --count seeds from --first, print a table, and exit with 1 after a failure.

    fuzz: (first seed, number of seeds) -> outcomes.  count: the default number.
    outcomes: the columns of the table.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=count)
    options = parser.parse_args()
    found, failures = fuzz(options.first, options.count)
    for seed, target, why in failures[:20]:
        print(f"seed {seed}, {target}:\n{why}\n")
    for target in sorted({target for target, _ in found}):
        row = "  ".join(f"{outcome} {found[target, outcome]:6}" for outcome in outcomes)
        print(f"{target:32} {row}")
    sys.exit(bool(failures))
