"""Data files, corrupted at random: each must be read correctly or refused with a `UserError`.

    python tests/fuzzing_data.py --count 10000     by hand; prints the outcomes by kind of file

Every case has its own seed, which reproduces it: `--first SEED --count 1`.  A case fails if
reading raises anything but `UserError`, if the error does not name the file, or if it takes more
than ten seconds or two gigabytes.  tests/fuzzing.py does the same with the folders of models.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import resource
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.corruptions import corrupt_bytes, corrupt_json
from support.fuzzes import Outcomes, command_line, tally

from minift.data.columns import read_tagged
from minift.data.read import read_classification, read_summaries
from minift.data.squad import read_squad
from minift.errors import UserError

SECONDS, MEMORY = 10, 2 * 2**30

# ---- valid files and their readers -------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A file, the corruptions to try on it, and its reader, a function of the folder."""

    name: str
    file: str
    corruptions: tuple[Callable[[bytes, random.Random], bytes], ...]
    read: Callable[[Path], object]


def make_valid(folder: Path) -> list[Target]:
    """Write a valid file of each kind; returns the targets that read them."""
    rows = [(f"the {w} film was so", w) for w in ("good", "bad") * 4]
    (folder / "a.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    text = "text,label\n" + "".join(f'"{text}, so",{label}\n' for text, label in rows)
    (folder / "a.csv").write_text(text)
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "a.tsv.gz").write_bytes(gzip.compress((folder / "a.tsv").read_bytes()))
    (folder / "a.conll").write_text(
        "-DOCSTART- -X- O O\n\nEU NNP B-ORG\nrejects VBZ O\n\nB NN O\n" * 3
    )
    tags = [json.dumps({"tokens": ["EU", "so"], "tags": ["B-ORG", "O"]})] * 3
    (folder / "tags.jsonl").write_text("\n".join(tags) + "\n")
    reports = [json.dumps({"document": "Rain fell. It was cold.", "summary": "Rain."})] * 3
    (folder / "reports.jsonl").write_text("\n".join(reports) + "\n")
    answers = [{"text": "Rollo", "answer_start": 10}]
    asked = [
        {"id": "1", "question": "Who led?", "answers": answers, "is_impossible": False},
        {"id": "2", "question": "Who fell?", "answers": [], "is_impossible": True},
    ]
    paragraphs = [{"context": "Under its Rollo they came.", "qas": asked}]
    data = {"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}
    (folder / "a.json").write_text(json.dumps(data))

    plain, both = (corrupt_bytes,), (corrupt_bytes, corrupt_json)
    return [
        Target("TSV", "a.tsv", plain, lambda f: read_classification(f / "a.tsv")),
        Target("CSV", "a.csv", plain, lambda f: read_classification(f / "a.csv")),
        Target("JSONL", "a.jsonl", both, lambda f: read_classification(f / "a.jsonl")),
        Target("gzip", "a.tsv.gz", plain, lambda f: read_classification(f / "a.tsv.gz")),
        Target("CoNLL", "a.conll", plain, lambda f: read_tagged(f / "a.conll")),
        Target("tagged JSONL", "tags.jsonl", both, lambda f: read_tagged(f / "tags.jsonl")),
        Target("summaries", "reports.jsonl", both, lambda f: read_summaries(f / "reports.jsonl")),
        Target("SQuAD", "a.json", both, lambda f: read_squad(f / "a.json")),
    ]


# ---- cases -------------------------------------------------------------------------------------


class TooLong(Exception):
    """The case hangs."""


@contextlib.contextmanager
def seconds(limit: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TooLong(f"more than {limit} s")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(
        signal.ITIMER_PROF, limit
    )  # CPU time of this process, however busy the machine
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def try_case(seed: int, targets: list[Target], valid: Path, folder: Path) -> tuple[str, str, str]:
    """(target, "accepted" | "refused" | "failed", message) of one corrupted file."""
    draw = random.Random(seed)
    target = draw.choice(targets)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    data = (valid / target.file).read_bytes()
    (folder / target.file).write_bytes(draw.choice(target.corruptions)(data, draw))
    try:
        with seconds(SECONDS):
            target.read(folder)
    except UserError as error:
        if "\n" in str(error) or str(folder) not in str(error):
            return target.name, "failed", f"does not name the file in one line: {error}"
        return target.name, "refused", str(error)
    except BaseException:
        return target.name, "failed", traceback.format_exc()
    return target.name, "accepted", ""


def fuzz(first: int, count: int) -> Outcomes:
    limit = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limit[1]))
    try:
        with tempfile.TemporaryDirectory() as place:
            valid, folder = Path(place, "valid"), Path(place, "case")
            valid.mkdir()
            targets = make_valid(valid)
            for target in targets:  # the valid files are read
                target.read(valid)
            seeds = range(first, first + count)
            return tally(seeds, lambda seed: try_case(seed, targets, valid, folder))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


if __name__ == "__main__":
    command_line(__doc__, fuzz, 10_000, ("accepted", "refused", "failed"))
