"""What fuzzes share: the outcome of each seed counted, and the command line that prints them."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

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
