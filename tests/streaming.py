"""Memory of predict.py for few and for many records: it must not grow with their number.

    python tests/streaming.py --records 1000000       by hand; prints a row for each source

Each source is predicted twice, with a thousand records and with --records, by a tiny random model
in a process of its own, which reports its largest resident memory (VmHWM, so Linux only).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from predicting import SCRIPT, make_models

FEW = 1000
LIMIT_MB = 50  # what many records may take beyond that of a few
WORDS = ("the", "good", "bad", "film", "was", "so", "it", "ada", "bo")

Lines = Callable[[int, int], Iterator[str]]  # (records, width) -> parts of their file

MEASURED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    (peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    sys.__stderr__.write("\\n" + peak.split()[1])
"""


def text_of(i: int, width: int) -> str:
    """A text of its own for each record.  width: blanks in it, which hold memory but no tokens."""
    words = " ".join(WORDS[i // 9**k % 9] for k in range(i % 7 + 1))
    return f"{words}{' ' * width} {i}"


def label_of(i: int) -> str:
    return ("neg", "pos")[i % 2]


def texts(n: int, width: int) -> Iterator[str]:
    return (f"{text_of(i, width)}\n" for i in range(n))


def labelled(n: int, width: int) -> Iterator[str]:
    return (f"{text_of(i, width)}\t{label_of(i)}\n" for i in range(n))


def pairs(n: int, width: int) -> Iterator[str]:
    return (f"{text_of(i + 1, 0)}\t{text_of(i, width)}\n" for i in range(n))


def table(n: int, width: int) -> Iterator[str]:
    yield "text,label,year\n"
    yield from (f"{text_of(i, width)},{label_of(i)},{i}\n" for i in range(n))


def json_lines(name: str) -> Lines:
    return lambda n, width: (
        f"{json.dumps({'id': i, name: text_of(i, width)})}\n" for i in range(n)
    )


def array(n: int, width: int) -> Iterator[str]:
    for i in range(n):
        yield f"{',' if i else '['}\n{json.dumps({'text': text_of(i, width)})}"
    yield "\n]\n"


def columns(n: int, width: int) -> Iterator[str]:
    for i in range(n):
        words = [*text_of(i, 0).split(), "x" * width + "x"]
        yield "".join(f"{word} NN O\n" for word in words) + "\n"


def squad(n: int, width: int) -> Iterator[str]:
    """All on one line, as most such files are; an article for ten questions."""
    yield '{"version": "v2.0", "data": ['
    for start in range(0, n, 10):
        numbers = range(start, min(n, start + 10))
        questions = [{"id": i, "question": text_of(i, 0), "note": "x" * width} for i in numbers]
        article = {"title": "t", "paragraphs": [{"context": text_of(start, 0), "qas": questions}]}
        yield f"{', ' if start else ''}{json.dumps(article)}"
    yield "]}"


@dataclass(frozen=True)
class Source:
    """Where the records come from.  ending: of their file; empty: standard input."""

    model: str
    ending: str
    lines: Lines
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.ending or "standard input"


SOURCES = (
    Source("single", "", texts),
    Source("single", ".tsv", labelled),
    Source("single", ".txt.gz", texts),
    Source("single", ".csv", table, ("--csv",)),
    Source("single", ".jsonl", json_lines("text"), ("--csv",)),
    Source("single", ".json", array, ("--json",)),
    Source("pair", ".tsv", pairs),
    Source("ner", "", texts),
    Source("ner", ".conll", columns, ("--json",)),
    Source("ner", ".jsonl", json_lines("text")),
    Source("qa", "", texts, ("--question", "who was it")),
    Source("qa", ".tsv", pairs),
    Source("qa", ".json", squad, ("--json",)),
    Source("summaries", "", texts),
    Source("summaries", ".jsonl", json_lines("document"), ("--json",)),
)


def measure(
    source: Source, folder: Path, model: Path, count: int, width: int = 0
) -> tuple[float, int]:
    """(largest memory in MB, lines of results) of predict.py for so many records."""
    path = folder / f"x{source.ending or '.txt'}"
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.writelines(source.lines(count, width))
    command = [sys.executable, "-c", MEASURED, str(SCRIPT), str(model), *source.flags]
    command += ["--file", str(path)] if source.ending else []
    command += ["--device", "cpu"]
    with open(path, "rb") as typed, open(folder / "out", "wb") as out:
        typed_in = None if source.ending else typed
        done = subprocess.run(
            command,
            stdin=typed_in,
            stdout=out,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent)},
        )
    path.unlink()
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    with open(folder / "out", "rb") as out:
        results = sum(not line.startswith(b"  ") for line in out) - ("--csv" in source.flags)
    return int(done.stderr.split()[-1]) / 1000, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--models", nargs="+", default=["single"], help="single pair ner qa ...")
    parser.add_argument("--endings", nargs="+", help='such as .tsv, or "" for standard input')
    options = parser.parse_args()
    failed = False
    print("| model | source | records | MB | records | MB |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        models = make_models(Path(place))
        for source in SOURCES:
            if source.model not in options.models:
                continue
            if options.endings is not None and source.ending not in options.endings:
                continue
            (few, _), (many, results) = (
                measure(source, Path(place), models[source.model], n)
                for n in (FEW, options.records)
            )
            failed |= many > few + LIMIT_MB or results != options.records
            print(
                f"| {source.model} | {source.name} | {FEW} | {few:.0f} | {results} | {many:.0f} |",
                flush=True,
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
