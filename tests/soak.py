"""Memory of long runs of all four tasks at the same time.

    python tests/soak.py --minutes 60             a nightly run; prints the memory of each task

Each run trains, evaluates and saves without end.  Its resident memory in the last quarter must be
within 2 % of that in the first: a leak of a kilobyte a step would show.
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

MAX_GROWTH = 0.02
ENDLESS = ["--epochs", "1000000", "--eval-steps", "50", "--save-steps", "200"]
ENDLESS += ["--logging-steps", "50"]
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb(pid: int) -> float:
    """The resident memory of a process."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * PAGE / 2**20


def growth(held: list[float]) -> float:
    """Share by which the mean of the last quarter exceeds that of the first; may be negative.

    >>> growth([100.0, 100.0, 150.0, 90.0, 90.0, 90.0, 101.0, 103.0])
    0.02
    """
    quarter = len(held) // 4
    first, last = statistics.mean(held[:quarter]), statistics.mean(held[-quarter:])
    return round(last / first - 1, 4)


def soak(
    minutes: float, tasks: list[str], every: float = 2.0
) -> dict[str, tuple[list[float], int]]:
    """Task -> MB at each look since it first saved a state, and its steps."""
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
            f"from first to last {growth(held):+.2%}"
        )
    sys.exit(any(growth(held) > MAX_GROWTH for held, _ in found.values()))


if __name__ == "__main__":
    main()
