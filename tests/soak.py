"""Runs of all four tasks side by side for a long time, and what memory they hold.

    python tests/soak.py --minutes 60             a nightly run; prints what came of it

Each trains, evaluates and saves without end.  What it holds in the last quarter must be within 2 %
of what it held in the first: a leak of a kilobyte a step would show.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from crashing import SIZE, begin, last_step, make_inputs

WITHIN = 0.02
ENDLESS = ["--epochs", "1000000", "--eval-every", "50", "--save-every", "200", "--log-every", "50"]
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb(pid: int) -> float:
    """What a process holds in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * PAGE / 2**20


def growth(held: list[float]) -> float:
    """Share by which the last quarter is above the first; below: negative.

    >>> growth([100.0, 100.0, 150.0, 90.0, 90.0, 90.0, 101.0, 103.0])
    0.02
    """
    quarter = len(held) // 4
    first, last = statistics.mean(held[:quarter]), statistics.mean(held[-quarter:])
    return round(last / first - 1, 4)


def soak(
    minutes: float, tasks: list[str], every: float = 2.0
) -> dict[str, tuple[list[float], int]]:
    """Task -> MB it held at each look, since it first saved a state, and the steps it took."""
    with tempfile.TemporaryDirectory() as place:
        folders, pids = {}, {}
        commands = make_inputs(Path(place))
        for task in tasks or commands:
            command = commands[task]
            folders[task] = Path(place, task, "run")
            folders[task].parent.mkdir()
            pids[task] = begin([*command, *ENDLESS], folders[task], Path(place, task, "log"))
        held: dict[str, list[float]] = {task: [] for task in pids}
        end = time.monotonic() + 60 * minutes
        try:
            while time.monotonic() < end:
                time.sleep(every)
                for task, pid in pids.items():
                    if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                        raise SystemExit(Path(place, task, "log").read_text()[-2000:])
                    if (folders[task] / "state").exists() or held[task]:
                        held[task].append(resident_mb(pid))
            return {task: (held[task], last_step(folders[task])) for task in pids}
        finally:
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--tasks", nargs="*", default=[], choices=[*SIZE], metavar="TASK")
    options = parser.parse_args()
    found = soak(options.minutes, options.tasks)
    for task, (held, steps) in found.items():
        quarter = len(held) // 4
        means = [statistics.mean(held[i * quarter : (i + 1) * quarter]) for i in range(4)]
        print(
            f"{task:15} {steps} steps; MB in each quarter {', '.join(f'{m:.1f}' for m in means)}; "
            f"the last {growth(held):+.2%} beside the first"
        )
    sys.exit(any(growth(held) > WITHIN for held, _ in found.values()))


if __name__ == "__main__":
    main()
