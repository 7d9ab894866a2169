"""predict.py on mutated files of all formats: one result for each record, or status 2 and one line.

    python tests/predicting.py --count 5000        by hand; prints the outcomes by model and file

Each case writes a small file with texts that may be blank, labels that may be missing, foreign or
odd, and other columns, then perhaps corrupts its bytes, and runs scripts/predict.py on it in this
process.  The number of records is counted here, without minift's readers.  `--first SEED --count 1`
repeats a case.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
import random
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fuzzing_data import SECONDS, seconds
from support.corruptions import corrupt_bytes, corrupt_json
from support.fuzzes import Outcomes, command_line, tally

from minift import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
    Tokenizer,
)
from minift.data.tags import tag_names
from minift.models.bert import BertConfig
from minift.pretraining.vocabulary import save_unigram, train_unigram
from minift.tasks.registry import TASKS
from minift.training.cli import run_script

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "predict.py"
TEXTS = [
    *("the good film", "bad", "so it was", "Ada met Bo in Oslo.", " ", "", "a  b", "\u200b"),
    *("é 好 🙂", "the film was good " * 12, '"', "{", "#", "O", "[SEP]", "x\u2028y", "\x1b[2J"),
]
LABELS: list[Any] = ["neg", "pos", "neg", "pos", "-1", "?", "", "other", "a b", "1.0", "🙂"]
ODD: list[Any] = [None, -1, 1.0, float("nan"), True, [], ["pos"], {}, "\ud800", 10**30]
TAGS = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "S-PER", "_", "NNP", "-", "(PER)", "*"]


# ---- models ------------------------------------------------------------------------------------


def make_models(folder: Path) -> dict[str, Path]:
    """A tiny random model of each kind, saved as a training script saves it."""
    torch.manual_seed(0)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "good",
        "bad",
        "film",
        "was",
        "so",
        "it",
        "a",
        "b",
        "c",
        "ada",
        "bo",
        ",",
        ".",
    ]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    bert = Tokenizer.from_pretrained(folder)

    def size(**fields: Any) -> BertConfig:
        return BertConfig(
            vocab_size=len(words),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=32,
            **fields,
        )

    labels, tags = ("neg", "pos"), tag_names({"PER", "LOC"})
    texts = BertForSequenceClassification(size(labels=labels))
    tokens = BertForTokenClassification(size(labels=tags))
    spans = BertForQuestionAnswering(size())
    save_unigram(train_unigram(["the good film was so bad", "summarize: it was"] * 20, 150), folder)
    (folder / "vocab.txt").unlink()
    unigram = Tokenizer.from_pretrained(folder)
    t5 = T5ForConditionalGeneration(
        T5Config(
            vocab_size=unigram.vocab_size, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
        )
    )
    saved: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
        "single": ("classification", texts, bert, {"pairs": False}),
        "pair": ("classification", texts, bert, {"pairs": True}),
        "ner": ("ner", tokens, bert, {}),
        "qa": ("qa", spans, bert, {}),
        "summaries": ("summarization", t5, unigram, {"max_target_length": 4}),
    }
    for name, (task_name, model, tokenizer, fields) in saved.items():
        task = TASKS[task_name]
        made = task(task.options_class(), tokenizer, 32, model.config.labels or (), **fields)
        made.save(model, folder / name)
    return {name: folder / name for name in saved}


# ---- files -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """A kind of file: its ending, how one is made, and how many records some bytes hold.

    count: bytes -> the numbers of records that are right.
    """

    name: str
    ending: str
    make: Callable[[random.Random], str]
    count: Callable[[bytes], set[int]]
    flags: tuple[str, ...] = ()


def lines_in(data: bytes) -> set[int]:
    lines = data.split(b"\n")
    return {len(lines) - (lines[-1] == b"")}


def objects_in(data: bytes) -> set[int]:
    return {sum(1 for line in data.split(b"\n") if line.decode(errors="replace").strip())}


def csv_rows_in(data: bytes) -> set[int]:
    lines = data.decode(errors="replace").removeprefix("\ufeff").split("\n")
    try:
        rows = list(csv.reader(line.removesuffix("\r") + "\n" for line in lines))
    except csv.Error:
        return set()
    return {sum(1 for row in rows[1:] if row)}


def sentences_in(data: bytes) -> set[int]:
    count, inside = 0, False
    for line in data.decode(errors="replace").removeprefix("\ufeff").split("\n"):
        fields = line.strip(" \t\r").split()
        begins = bool(fields) and fields[0] != "-DOCSTART-"
        if begins and line.startswith(("# ", "#begin ", "#end ")):
            continue
        count += begins and not inside
        inside = begins
    return {count}


def sentences_or_lines_in(data: bytes) -> set[int]:
    return sentences_in(data) | lines_in(data)


def questions_in(data: bytes) -> set[int]:
    try:
        articles = json.loads(data.decode().removeprefix("\ufeff"))["data"]
        return {sum(len(p["qas"]) for article in articles for p in article["paragraphs"])}
    except (ValueError, LookupError, TypeError, RecursionError):
        return set()


def one_line(draw: random.Random) -> str:
    return " ".join(draw.choice(TEXTS).split())


def delimited(draw: random.Random, columns: list[str], ends: str = "\n") -> str:
    pools = {"label": LABELS, "id": ["r0", "7", ""]}
    rows = range(draw.choice([1, 3, 8]))
    lines = []
    for _ in rows:
        values = [
            str(draw.choice(pools[name])) if name in pools else one_line(draw) for name in columns
        ]
        lines.append("\t".join(values) if draw.random() < 0.95 else "")
    return ends.join([*lines, ""])


def make_csv(draw: random.Random) -> str:
    names = ["text", *(n for n in ("label", "id", "score", "year") if draw.random() < 0.5)]
    draw.shuffle(names)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=draw.choice(["\n", "\r\n"]))
    writer.writerow(names)
    for _ in range(draw.choice([1, 3, 8])):
        writer.writerow([draw.choice(TEXTS if n == "text" else LABELS) for n in names])
    return text.getvalue()


def json_lines(draw: random.Random, inputs: tuple[str, ...], targets: tuple[str, ...]) -> str:
    lines = []
    for _ in range(draw.choice([1, 3, 8])):
        row: dict[str, Any] = {name: draw.choice(TEXTS) for name in inputs}
        for name in (*targets, "id", "predicted", "year"):
            if draw.random() < 0.5:
                row[name] = draw.choice(LABELS + ODD)
        lines.append(json.dumps(row, ensure_ascii=draw.random() < 0.5 or "\ud800" in row.values()))
    return "\n".join(lines) + "\n"


def make_tagged_json(draw: random.Random) -> str:
    lines = []
    for _ in range(draw.choice([1, 3, 8])):
        words = [draw.choice(TEXTS) for _ in range(draw.randrange(6))]
        tags = [draw.choice(TAGS) for _ in words]
        row: dict[str, Any] = {"tokens": words}
        if draw.random() < 0.6:
            row["tags"] = draw.choice([tags, tags, tags[:-1], None, 3, [None], ["O"]])
        if draw.random() < 0.2:
            row = {"text": draw.choice(TEXTS), "id": 3}
        lines.append(json.dumps(row))
    return "\n".join(lines) + "\n"


def make_columns(draw: random.Random) -> str:
    labelled = draw.choice([0, 0.5, 1, 1])
    lines = ["-DOCSTART- -X- O O", ""] * (draw.random() < 0.3)
    for _ in range(draw.choice([2, 4])):
        tagged = draw.random() < labelled
        for _ in range(draw.choice([1, 5])):
            word = draw.choice(["Ada", "Oslo", "was", "#tag", ".", "好"])
            lines.append(f"{word} {draw.choice(TAGS)}" if tagged else word)
        lines.append("")
    return "\n".join(lines)


def make_squad(draw: random.Random) -> str:
    paragraphs = []
    for i in range(draw.choice([1, 3])):
        context = draw.choice(TEXTS)
        questions = []
        for j in range(draw.choice([1, 2])):
            answer = {"text": draw.choice(["good", "x"]), "answer_start": draw.choice([4, 0, -1])}
            question: dict[str, Any] = {"id": f"{i}-{j}", "question": draw.choice(TEXTS)}
            if draw.random() < 0.6:
                question["answers"] = draw.choice([[answer], [], None, 3, [None], {"text": ["x"]}])
            if draw.random() < 0.3:
                question["is_impossible"] = draw.choice([True, False, 1, None])
            questions.append(question)
        paragraphs.append({"context": context, "qas": questions})
    return json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]})


def make_texts(draw: random.Random) -> str:
    return delimited(draw, ["text"])


def formats() -> dict[str, list[Format]]:
    """Model -> the kinds of files that it reads."""
    texts = Format("lines", ".txt", make_texts, lines_in)
    typed = Format("standard input", "", make_texts, lines_in)
    label = Format("labelled", ".tsv", lambda d: delimited(d, ["text", "label"]), lines_in)
    classified = Format(
        "JSONL", ".jsonl", lambda d: json_lines(d, ("text",), ("label",)), objects_in
    )
    pairs = ["text", "text_pair"]
    asked = ("--question", "who?")
    return {
        "single": [
            *(texts, typed, label, classified),
            Format("CSV", ".csv", make_csv, csv_rows_in),
            Format("JSON in text", ".txt", classified.make, objects_in),
            Format(
                "numbered",
                ".tsv",
                lambda d: delimited(d, ["id", "label", "text"]),
                lines_in,
                ("--text-column", "2"),
            ),
        ],
        "pair": [
            Format("pairs", ".txt", lambda d: delimited(d, pairs), lines_in),
            Format("typed pairs", "", lambda d: delimited(d, pairs), lines_in),
            Format("labelled pairs", ".tsv", lambda d: delimited(d, [*pairs, "label"]), lines_in),
            Format(
                "JSONL", ".jsonl", lambda d: json_lines(d, tuple(pairs), ("label",)), objects_in
            ),
        ],
        "ner": [
            Format("columns", ".conll", make_columns, sentences_in),
            Format("columns in text", ".txt", make_columns, sentences_or_lines_in),
            Format("tagged JSONL", ".jsonl", make_tagged_json, objects_in),
            *(texts, typed),
        ],
        "qa": [
            Format("SQuAD", ".json", make_squad, questions_in),
            Format("question and context", ".txt", lambda d: delimited(d, pairs), lines_in),
            Format("typed contexts", "", make_texts, lines_in, asked),
            Format("one text", ".txt", make_texts, lambda data: {1}, asked),
        ],
        "summaries": [
            Format(
                "JSONL",
                ".jsonl",
                lambda d: json_lines(d, ("document",), ("summary", "summaries")),
                objects_in,
            ),
            Format("one text", ".txt", make_texts, lambda data: {1}),
            typed,
        ],
    }


# ---- cases -------------------------------------------------------------------------------------


def load_main() -> Callable[[], None]:
    spec = importlib.util.spec_from_file_location("predict", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def run(main: Callable[[], None], arguments: list[str], typed: bytes) -> tuple[int, str, str]:
    """(status, stdout, stderr) of predict.py."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline=""), io.StringIO()
    before = sys.argv, sys.stdin
    sys.argv = [str(SCRIPT), *arguments]
    sys.stdin = io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8")
    try:
        with redirect_stdout(out), redirect_stderr(err):
            run_script(main)
    except SystemExit as ended:
        out.flush()
        return int(ended.code or 0), out.buffer.getvalue().decode(), err.getvalue()
    finally:
        sys.argv, sys.stdin = before


def results_in(output: str, mode: str) -> int:
    """The number of results that predict.py printed, each of which must be valid."""
    lines = output.split("\n")[:-1]
    if mode == "--json":
        for line in lines:
            row = json.loads(line, parse_constant=lambda name: {}[name])  # NaN is an error
            assert "predicted" in row
        return len(lines)
    if mode == "--csv":
        limit = csv.field_size_limit(sys.maxsize)
        header, *rows = list(csv.reader(io.StringIO(output, newline=""), strict=True)) or [[]]
        csv.field_size_limit(limit)
        assert all(len(row) == len(header) for row in rows)
        return len(rows)
    return sum(not line.startswith("  ") for line in lines)


def try_case(
    seed: int, main: Callable[[], None], models: dict[str, Path], folder: Path
) -> tuple[str, str, str]:
    """(model and format, "predicted" | "refused" | "failed", message) of one file."""
    draw = random.Random(seed)
    name = draw.choice(list(models))
    kind = draw.choice(formats()[name])
    data = kind.make(draw).encode()
    fate = draw.random()
    if fate < 0.4:
        data = corrupt_bytes(data, draw)
    elif fate < 0.6 and kind.ending in (".json", ".jsonl"):
        lines = data.strip(b"\n").split(b"\n")
        at = draw.randrange(len(lines))
        lines[at] = corrupt_json(lines[at], draw)
        data = b"\n".join([*lines, b""])
    mode = draw.choice(["--json", "--json", "--csv", ""])
    arguments = [str(models[name]), *kind.flags, *([mode] if mode else [])]
    if kind.ending:
        packed = draw.random() < 0.2
        path = folder / f"x{kind.ending}{'.gz' * packed}"
        path.write_bytes(gzip.compress(data) if packed else data)
        arguments += ["--file", str(path)]
    what = f"{name}: {kind.name}"
    try:
        with seconds(SECONDS):
            status, output, errors = run(main, arguments, b"" if kind.ending else data)
        if status == 2:
            last = errors.splitlines()[-1]
            assert last.startswith("error: "), errors
            assert "Traceback" not in errors, errors
            return what, "refused", last
        assert status == 0, errors
        # A file without any LF has the line ends of old Macs.
        old_mac = kind.ending and b"\n" not in data
        lines = data.replace(b"\r", b"\n") if old_mac else data
        found, expected = results_in(output, mode), kind.count(lines)
        assert found in expected, f"{found} results for {expected} records: {data[:300]!r}"
    except BaseException:
        return what, "failed", f"{arguments}\n{data[:300]!r}\n{traceback.format_exc()}"
    return what, "predicted", ""


def fuzz(first: int, count: int) -> Outcomes:
    main = load_main()
    with tempfile.TemporaryDirectory() as place:
        models = make_models(Path(place))
        seeds = range(first, first + count)
        return tally(seeds, lambda seed: try_case(seed, main, models, Path(place)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    command_line(__doc__, fuzz, 5_000, ("predicted", "refused", "failed"))
