"""This checkout beside an older one, such as the commit before a change: time, and equal outputs.

Each run is a process of its own, so the two checkouts share only the interpreter, the checkpoints
and the data.  The inside of the old checkout differs, so a run uses only what users may rely on:
training scripts and their output directory, `from_pretrained` and `generate`.
"""

import json
import math
import operator
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from minift.data.read import builtin
from minift.errors import UserError
from minift.files import read_json
from minift.hub import find_checkpoint
from minift.options import check_range, option
from minift.reports.tables import markdown_table
from minift.terminal import print_line

NEW = Path(__file__).absolute().parent.parent.parent  # this checkout
LIMIT = 1.03  # how many times as long as the old checkout the new one may take
MAX_MISS = 0.05  # probability that an interval misses the true median

# Task -> its built-in set, and the number of training records that take about ten seconds.
TRAINING = {"classification": ("reviews.{}.tsv", 839), "summarization": ("reports.{}.jsonl", 300)}
# Search -> its beams, and the number of calls of `generate` that take about ten seconds.
GENERATION = {"greedy": (1, 20), "beams": (4, 15)}
MEASUREMENTS = (*TRAINING, *GENERATION)

# Arguments: a checkpoint, beams, calls.  Prints the seconds, and the tokens of each source.
GENERATE = """
import json, pathlib, sys, time
import torch
import minift

folder, beams, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = json.loads(pathlib.Path(folder, "config.json").read_text())
model = getattr(minift, config["architectures"][0]).from_pretrained(folder)
torch.manual_seed(1)
ids = torch.randint(3, model.config.vocab_size, (8, 256))
settings = {"max_new_tokens": 48, "min_new_tokens": 48, "num_beams": beams}
model.generate(ids, **settings)
began = time.perf_counter()
for _ in range(calls):
    tokens = model.generate(ids, **settings)
print(json.dumps([time.perf_counter() - began, tokens.tolist()]))
"""
LOCATE = "import importlib.util; print(importlib.util.find_spec('minift').origin)"


@dataclass(frozen=True)
class RegressionOptions:
    """Measurement."""

    pairs: int = option(15, "Pairs of runs that count; with fewer than 6 there is no interval.")
    only: tuple[str, ...] = option(MEASUREMENTS, "What to measure.")
    encoder: str = option("all-MiniLM-L6-v2", "Encoder that classification trains.")
    seq2seq: str = option(
        "minift-t5-mini", "Encoder-decoder that summarization trains, and that generates."
    )
    records: int | None = option(
        None, "Training records of a run. Default: enough for about ten seconds on two cores."
    )
    calls: int | None = option(
        None, "Calls of generate in a run. Default: enough for about ten seconds on two cores."
    )

    def __post_init__(self) -> None:
        check_range(self, "pairs", 1, 100_000)
        for name in ("records", "calls"):
            check_range(self, name, 1)
        for name in self.only:
            if name not in MEASUREMENTS:
                raise ValueError(f"--only is {name!r}; choose from {', '.join(MEASUREMENTS)}")


@dataclass(frozen=True)
class Timed:
    """The seconds of a run, and its results: a prediction or a row of tokens for each input."""

    seconds: float
    outputs: list[Any]


def regression(old: Path, options: RegressionOptions) -> None:
    """Run this checkout and the one in `old` in turn, and print how many times as long this takes.

    `UserError` for a folder that is no checkout, and for a run that fails.
    """
    old = Path(os.path.abspath(old))
    for checkout in (NEW, old):
        check_checkout(checkout)
    rows = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            run = prepare(name, options, Path(folder))
            print_line(f"\n--- {name}")
            rows.append(table_row(name, in_turn(run, old, options.pairs)))
    print_line(f"\nold: {old}\nnew: {NEW}")
    print_line(f"processor: {describe_processor()}; {torch.get_num_threads()} threads")
    print_line(
        "new / old is how many times as long as the old checkout the new one takes: below 1, the "
        f"new one is faster (median of {options.pairs} pairs)\n"
    )
    print_line(markdown_table(rows))


def prepare(name: str, options: RegressionOptions, folder: Path) -> Callable[[Path], Timed]:
    """A measurement, as a function of the checkout.  folder: for the files of its runs."""
    if name in GENERATION:
        beams, calls = GENERATION[name]
        words = [find_checkpoint(options.seq2seq).absolute(), beams, options.calls or calls]
        return lambda checkout: generate(checkout, folder, words)
    data, count = TRAINING[name]
    train_file = folder / data.format("train")
    with builtin(train_file.name).open(encoding="utf-8") as lines:
        train_file.write_text("".join(islice(lines, options.records or count)), encoding="utf-8")
    is_encoder = name == "classification"
    flags = {
        "--model": find_checkpoint(options.encoder if is_encoder else options.seq2seq).absolute(),
        "--train-file": train_file,
        "--test-file": builtin(data.format("test")).absolute(),
        "--output-dir": folder / "run",
        "--epochs": 1,
        "--batch-size": 16,
        "--seed": 1,
        "--device": "cpu",
        **({} if is_encoder else {"--num-beams": 1, "--freeze-layers": 0}),
    }
    return lambda checkout: train(checkout, name, flags)


def train(checkout: Path, task: str, flags: dict[str, Any]) -> Timed:
    """Train with the checkout's script; the outputs are the predictions for the test file."""
    run_dir = flags["--output-dir"]
    script = checkout / "scripts" / f"train_{task}.py"
    words = [part for flag in flags.items() for part in flag]
    run_python(checkout, run_dir.parent, script, *words, "--overwrite")
    lines = (run_dir / "predictions.test.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = read_json(run_dir / "metrics.json")["train_seconds"]
    return Timed(seconds, [json.loads(line)["predicted"] for line in lines])


def generate(checkout: Path, folder: Path, words: Sequence[Any]) -> Timed:
    """Generate with the checkout's model; the outputs are the tokens of each source."""
    return Timed(*json.loads(run_python(checkout, folder, "-c", GENERATE, *words)))


def run_python(checkout: Path, folder: Path, *words: Any) -> str:
    """Run Python in `folder`, with minift from `checkout`; returns what it prints.

    Both checkouts get the same number of threads.  `UserError` if the process fails.
    """
    threads = str(torch.get_num_threads())
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": threads},
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no error message"])[-1]
        program = "generate" if words[0] == "-c" else words[0]
        raise UserError(f"{checkout}: {program} ended with status {done.returncode}: {last}")
    return done.stdout


def check_checkout(folder: Path) -> None:
    """`UserError` for a folder that is no checkout, or whose minift Python does not import."""
    package = folder / "minift" / "__init__.py"
    for path in (package, *(folder / "scripts" / f"train_{task}.py" for task in TRAINING)):
        if not path.is_file():
            raise UserError(
                f"{folder} is no checkout: it has no {path.relative_to(folder)}; give a folder "
                "with minift/ and scripts/"
            )
    found = run_python(folder, folder, "-c", LOCATE).strip()
    if not os.path.samefile(found, package):
        raise UserError(f"{folder}: Python imports minift from {found}; uninstall that one")


def in_turn(run: Callable[[Path], Timed], old: Path, pairs: int) -> list[tuple[Timed, Timed]]:
    """The runs of this checkout and of `old`, in pairs (new, old).

    The side that begins alternates.  One more pair warms up and is left out.
    """
    results = []
    for i in range(pairs + 1):
        if i % 2:
            new, other = run(NEW), run(old)
        else:
            other, new = run(old), run(NEW)
        if i:
            results.append((new, other))
            print_line(f"pair {i}: new {new.seconds:.2f} s, old {other.seconds:.2f} s")
    return results


def table_row(name: str, pairs: Sequence[tuple[Timed, Timed]]) -> dict[str, str]:
    """A row of the table.  same outputs: those of the pair with the fewest."""
    ratios = [new.seconds / old.seconds for new, old in pairs]
    interval = median_interval(ratios)
    equal = [sum(map(operator.eq, new.outputs, old.outputs)) for new, old in pairs]
    total = max(len(run.outputs) for pair in pairs for run in pair)
    shown = "{:.3f} ... {:.3f}".format(*interval) if interval else "too few pairs"
    return {
        "run": name,
        "new, s": f"{statistics.median(new.seconds for new, _ in pairs):.2f}",
        "old, s": f"{statistics.median(old.seconds for _, old in pairs):.2f}",
        "new / old": f"{statistics.median(ratios):.3f}",
        "95 % interval": shown,
        f"at most {LIMIT}": verdict(interval),
        "same outputs": f"{min(equal)} of {total}",
    }


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % confidence interval of the median; None for fewer than six values.

    Its ends are the k-th lowest and the k-th highest of the n values.  Each value is below the true
    median with probability 1/2, so the number B of values below it is binomial.  The interval
    misses the median if B < k, or if n - B < k, which is as probable.  k is the largest number with
    2 P(B < k) <= 0.05.  Of 15 values 0, 1, 2, ... are below in 1, 15, 105, 455, 1365, ... ways:

        2 P(B < 4) = 2 (1 + 15 + 105 + 455) / 2**15         = 0.035
        2 P(B < 5) = 2 (1 + 15 + 105 + 455 + 1365) / 2**15  = 0.118      so k = 4

    >>> median_interval([15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1])
    (4, 12)
    """
    n, k, miss = len(values), 0, 0.0
    while (miss := miss + 2 * math.comb(n, k) / 2**n) <= MAX_MISS:
        k += 1
    ordered = sorted(values)
    return (ordered[k - 1], ordered[n - k]) if k else None


def verdict(interval: tuple[float, float] | None) -> str:
    """Whether the limit holds: "undecided" if it lies inside the interval of the median.

    >>> verdict((0.98, 1.02)), verdict((1.01, 1.05)), verdict((1.04, 1.09))
    ('yes', 'undecided', 'no')
    """
    if interval is None or interval[0] <= LIMIT < interval[1]:
        return "undecided"
    return "yes" if interval[1] <= LIMIT else "no"


def describe_processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, and those of its flags that choose among kernels (Linux)."""
    lines = path.read_text().splitlines() if path.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    flags = [x for x in facts.get("flags", "").split() if x.startswith(("avx512", "amx"))]
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({' '.join(sorted(flags)) or 'neither AVX-512 nor AMX'})"
