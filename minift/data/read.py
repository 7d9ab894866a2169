"""Files in, typed records out; whatever is wrong is told with its file and line.

    .tsv .txt     text<TAB>label, or text<TAB>pair<TAB>label; no header, quotes are just quotes
    .csv          a header line with text[, text_pair], label; fields may be quoted
    .jsonl .json  a JSON object a line: {"text": ..., "text_pair": ..., "label": ...}

All in UTF-8, with or without a byte-order mark, any line ends, plain or as `.gz`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minift.errors import InputError, at

LONGEST_LINE = 10_000_000  # characters; a longer line is a damaged file, not a text

# line number and the fields by name
Row = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class TextRecord:
    """A text or a pair of texts, and its label where it has one."""

    id: str
    text: str
    label: str | None
    text_pair: str | None
    where: str  # "file, line N": what an error about this record says


def builtin(name: str) -> Path:
    """The path of a file among the sets that come with minift."""
    return Path(__file__).parent / "builtin" / name


def read_classification(
    path: str | Path,
    *,
    text_column: str = "text",
    pair_column: str = "text_pair",
    label_column: str = "label",
    require_label: bool = True,
) -> list[TextRecord]:
    """The records of a classification file.

    The columns are named by the header of a CSV or the keys of JSON.  A TSV has no header: its
    columns are text and label, or text, pair and label; another order is given by numbers from 0,
    as for CoLA, whose lines are `source<TAB>label<TAB>mark<TAB>sentence`: text_column="3",
    label_column="1".  Without `require_label` labels may be missing and a line of a TSV may be
    nothing but a text.
    """
    path = Path(path)
    columns = {"text": text_column, "text_pair": pair_column, "label": label_column}
    rows = reader_of(path)(path, columns)
    records = []
    for line, fields in rows:
        where = at(path, line)
        label = fields.get("label")
        if label is None and require_label:
            raise InputError(f"{where}: no {label_column!r}; every record needs a label")
        records.append(
            TextRecord(
                id=str(len(records)),
                text=_text(fields.get("text"), text_column, where),
                label=None if label is None else _label(label, label_column, where),
                text_pair=None
                if fields.get("text_pair") is None
                else _text(fields["text_pair"], pair_column, where),
                where=where,
            )
        )
    if not records:
        raise InputError(f"{path}: holds no record; give a file with at least one")
    return records


def _text(value: Any, column: str, where: str) -> str:
    if value is None:
        raise InputError(f"{where}: no {column!r}; every record needs one")
    if not isinstance(value, str):
        raise InputError(f"{where}: {column!r} is {value!r:.60}; it must be a string")
    if not value.strip():
        raise InputError(f"{where}: {column!r} is empty; fill it in or remove the record")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{where}: {column!r} has half a surrogate pair; convert it to UTF-8")
    return value


def _label(value: Any, column: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InputError(f"{where}: {column!r} is {value!r:.60}; it must be a string or an integer")
    label = str(value).strip()
    if not label:
        raise InputError(f"{where}: {column!r} is empty; every record needs a label")
    return label


def reader_of(path: Path) -> Callable[[Path, dict[str, str]], Iterator[Row]]:
    """How to read a file, by its ending."""
    name = path.name.lower().removesuffix(".gz")
    for endings, reader in {
        (".tsv", ".txt"): read_tsv,
        (".csv",): read_csv,
        (".jsonl", ".json"): read_jsonl,
    }.items():
        if name.endswith(endings):
            return reader
    raise InputError(f"{path}: unknown kind of file; the ending must be .tsv, .csv or .jsonl")


def read_tsv(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    """Tab-separated fields without a header or quoting; blank lines are passed over."""
    numbers = {name: int(c) for name, c in columns.items() if c.isdecimal()}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        fields = line.split("\t")
        if numbers:
            last = max(numbers.values())
            if len(fields) <= last:
                raise InputError(
                    f"{at(path, number)}: has {len(fields)} columns, so no column {last} (counted "
                    "from 0); correct the line or the column numbers"
                )
            yield number, {name: fields[i] for name, i in numbers.items()}
        elif 1 <= len(fields) <= 3:
            names = (("text",), ("text", "label"), ("text", "text_pair", "label"))[len(fields) - 1]
            yield number, dict(zip(names, fields, strict=True))
        else:
            raise InputError(
                f"{at(path, number)}: has {len(fields)} columns; a line is text<TAB>label or "
                "text<TAB>pair<TAB>label (or give column numbers)"
            )


def read_csv(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    """Comma-separated fields with a header; a quoted field may hold commas and line ends."""
    csv.field_size_limit(LONGEST_LINE)
    lines = csv.reader((line + "\n" for _, line in read_lines(path)), strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        if columns["text"] not in header:
            raise InputError(
                f"{at(path, 1)}: the header {','.join(header)!r:.80} has no column "
                f"{columns['text']!r}; add one, or name the column of the text"
            )
        start = lines.line_num + 1
        for fields in lines:
            if fields and len(fields) != len(header):
                raise InputError(
                    f"{at(path, start)}: has {len(fields)} fields, the header {len(header)}; "
                    "quote a field that holds a comma"
                )
            if fields:
                row = dict(zip(header, fields, strict=True))
                yield start, {name: row[c] for name, c in columns.items() if c in row}
            start = lines.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{at(path, lines.line_num)}: not well-formed CSV ({error}); correct the quotes"
        ) from None


def read_jsonl(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    """A JSON object on each line; blank lines are passed over."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply")
            raise InputError(
                f"{at(path, number)}: not JSON ({reason}); each line must be one JSON object"
            ) from None
        if not isinstance(row, dict):
            raise InputError(f"{at(path, number)}: {line:.40} is not a JSON object; make it one")
        yield number, {name: row[c] for name, c in columns.items() if c in row}


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a text file in UTF-8, plain or gzipped."""
    number = 0
    try:
        with _open(path) as file:
            while data := file.readline(LONGEST_LINE):
                number += 1
                if len(data) >= LONGEST_LINE:
                    raise InputError(
                        f"{at(path, number)}: more than {LONGEST_LINE:,} bytes; "
                        "is this a text file?"
                    )
                if b"\0" in data:
                    raise InputError(f"{at(path, number)}: a NUL byte; is this a text file?")
                text = data.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{at(path, number)}: byte {error.start + 1} of the line, "
            f"{error.object[error.start]:#x}, is not UTF-8; convert the file to UTF-8"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory; give a file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path}: a damaged gzip file; download or pack it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb")


def records_of(lines: Iterable[str]) -> Iterator[TextRecord]:
    """Records without labels from lines of text, as prediction gets them: text[<TAB>pair]."""
    for i, line in enumerate(lines):
        text, tab, pair = line.rstrip("\r\n").partition("\t")
        where = f"input {i + 1}"
        yield TextRecord(
            id=str(i),
            text=_text(text, "text", where),
            label=None,
            text_pair=_text(pair, "text_pair", where) if tab else None,
            where=where,
        )
