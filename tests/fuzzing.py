"""Valid files, corrupted at random: each must be read correctly or refused with a `UserError`.

    python tests/fuzzing.py --count 20000          a nightly run; prints the outcomes by file kind

Every case has its own seed, which reproduces it: `--first SEED --count 1`.  A case fails if
reading raises anything but `UserError`, if the error does not name the file, if a model that was
accepted cannot compute, or if it takes more than ten seconds or two gigabytes.
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

import torch
from support.fuzzes import Outcomes, command_line, tally

from minift import BertForSequenceClassification, T5Config, T5ForConditionalGeneration, Tokenizer
from minift.data.columns import read_tagged
from minift.data.read import read_classification, read_summaries
from minift.data.squad import read_squad
from minift.errors import UserError
from minift.models.bert import BertConfig
from minift.tasks.loading import save_task

SECONDS, MEMORY = 10, 2 * 2**30
VALUES = [
    *(None, True, False, 0, -1, 1, 2, 3.5, 1e999, -1e999, float("nan"), 2**31, 2**63, 10**30),
    *("", "a", "\x00", "é" * 50, "\ud800", [], {}, [[]], {"a": {}}, [0], ["x"], {"0": "a"}),
]


# ---- corruptions -------------------------------------------------------------------------------


def corrupt_bytes(data: bytes, draw: random.Random) -> bytes:
    """A few changes of bytes, whatever the format."""
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice([1, 2, 8, 100]))
        kind = draw.randrange(9)
        if kind == 0 and at < len(data):  # a bit
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        elif kind == 1:  # cut the end off
            data = data[:at]
        elif kind == 2:  # cut a part out
            data = data[:at] + data[end:]
        elif kind == 3:  # repeat a part
            data = data[:end] + data[at:end] + data[end:]
        elif kind == 4:
            data = data[:at] + draw.randbytes(draw.choice([1, 4, 64])) + data[at:]
        elif kind == 5:
            odd = [b"\x00", b"\xff\xfe", b"\r", b"\n", b"\t", b'"', b"[" * 3000, b"\xef\xbb\xbf"]
            data = data[:at] + draw.choice(odd) + data[at:]
        elif kind == 6:
            data = (
                data[:at] + draw.choice([b"-1", b"9" * 30, b"1e999", b"NaN", b"null"]) + data[end:]
            )
        elif kind == 7:  # one very long line
            data = data[:at] + draw.choice([b"a", b"\xc3\xa9", b" "]) * 1_000_000 + data[at:]
        else:
            data = data.replace(b"\n", draw.choice([b"\r\n", b"", b"\n\n", b"\r"]))
    return data


def corrupt_value(value: object, draw: random.Random) -> object:
    """Replace, delete or extend one node of a JSON value."""
    if isinstance(value, (dict, list)) and value and draw.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = draw.choice(list(keys))
        changed = dict(value) if isinstance(value, dict) else list(value)
        fate = draw.random()
        if fate < 0.15:
            del changed[key]
        elif fate < 0.25 and isinstance(changed, dict):
            changed[draw.choice(["", "a", "model_type", "weight_map"])] = draw.choice(VALUES)
        elif fate < 0.3 and isinstance(changed, list):
            changed.append(draw.choice([changed[key], draw.choice(VALUES)]))
        else:
            changed[key] = corrupt_value(value[key], draw)
        return changed
    if draw.random() < 0.05:
        nest: object = []
        for _ in range(draw.choice([50, 5000])):
            nest = [nest]
        return nest
    return draw.choice(VALUES)


def corrupt_json(data: bytes, draw: random.Random) -> bytes:
    lines = data.decode().splitlines() if b"\n{" in data[:-1] and data[:1] == b"{" else None
    if lines and all(line.startswith("{") for line in lines):  # JSON lines
        at = draw.randrange(len(lines))
        lines[at] = dumps(corrupt_value(json.loads(lines[at]), draw))
        return "\n".join(lines).encode(errors="surrogatepass")
    return dumps(corrupt_value(json.loads(data), draw)).encode(errors="surrogatepass")


def dumps(value: object) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 5000 + "]" * 5000


def corrupt_header(data: bytes, draw: random.Random) -> bytes:
    """A wrong safetensors header: its shapes, offsets, dtypes, names or its own length."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = draw.choice(list(header))
    entry = dict(header[name])
    fate = draw.randrange(6)
    if fate == 0:
        entry["shape"] = draw.choice([[], [-1], [2**62, 4], [0], [10**9, 10**9], "x", [1.5]])
    elif fate == 1:
        entry["data_offsets"] = draw.choice([[0, 10**12], [-4, 4], [8, 0], [0, 4], [2**64, 2**65]])
    elif fate == 2:
        entry["dtype"] = draw.choice(["F64", "I64", "BOOL", "F8_E4M3", "XX", 3, "BF16", "F16"])
    if fate < 3:
        header[name] = entry
    elif fate == 3:
        header[draw.choice(["", "../x", name + ".x", "\x00"])] = header.pop(name)
    elif fate == 4:
        header = corrupt_value(header, draw)
    text = dumps(header).encode(errors="surrogatepass")
    size = draw.choice([len(text), len(text), 0, 10, 2**63, 10**9]) if fate == 5 else len(text)
    return size.to_bytes(8, "little") + text + data[8 + int.from_bytes(data[:8], "little") :]


# ---- valid files and their readers -------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A file, the corruptions to try on it, and its reader, a function of the folder."""

    name: str
    file: str
    corruptions: tuple[Callable[[bytes, random.Random], bytes], ...]
    read: Callable[[Path], object]


def use_bert(folder: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(folder / "bert")
    tokens = min(4, model.config.max_position_embeddings)
    ids = torch.zeros(1, tokens, dtype=torch.int64)
    assert model(ids).shape[0] == 1


def use_t5(folder: Path) -> None:
    model = T5ForConditionalGeneration.from_pretrained(folder / "t5")
    ids = torch.ones(1, 4, dtype=torch.int64)
    assert model.generate(ids, max_new_tokens=2).shape[0] == 1


def use_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(folder / "bert")
    encoding = tokenizer("the good film")
    assert len(encoding.ids) == len(encoding.offsets)


def make_valid(folder: Path) -> list[Target]:
    """Write a valid file of each kind; returns the targets that read them."""
    torch.manual_seed(0)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["the", "good", "bad", "film", "was", "so", "a", "b", "c"],
    ]
    bert = folder / "bert"
    bert.mkdir()
    (bert / "vocab.txt").write_text("\n".join(words) + "\n")
    (bert / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        labels=("neg", "pos"),
    )
    save_task(BertForSequenceClassification(config), Tokenizer.from_pretrained(bert), bert)
    (bert / "vocab.txt").unlink()
    (bert / "manifest.json").unlink()  # because it would refuse every change
    t5 = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(t5).save_pretrained(folder / "t5")

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
        Target("weights", "bert/model.safetensors", (corrupt_bytes, corrupt_header), use_bert),
        Target("config", "bert/config.json", both, use_bert),
        Target("T5's config", "t5/config.json", both, use_t5),
        Target("tokenizer", "bert/tokenizer.json", both, use_tokenizer),
        Target("tokenizer's config", "bert/tokenizer_config.json", both, use_tokenizer),
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
    part = Path(target.file).parts[0]
    copy = shutil.copytree if (valid / part).is_dir() else shutil.copyfile
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copy(valid / part, folder / part)
    path = folder / target.file
    path.write_bytes(draw.choice(target.corruptions)(path.read_bytes(), draw))
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
    command_line(__doc__, fuzz, 20_000, ("accepted", "refused", "failed"))
