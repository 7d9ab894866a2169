"""Files in, typed records out; errors name the file and the line.

    .tsv .txt     text<TAB>label, or text<TAB>pair<TAB>label; no header; quotes have no meaning
    .csv          a header line with text[, text_pair], label; fields may be quoted
    .jsonl .json  one JSON object a line: {"text": ..., "text_pair": ..., "label": ...}

All in UTF-8, with or without a byte-order mark, lines ended by LF or CRLF, plain or as `.gz`.

There are two layers.  A reader for each kind of file yields rows: the fields, and their line.  A
function for each task converts rows to records and checks their values.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from minift.errors import UserError, location

MAX_LINE_BYTES = 10_000_000  # bytes; a longer line is a damaged file, not a text
BOM = b"\xef\xbb\xbf"

RecordType = TypeVar("RecordType")


@dataclass(frozen=True)
class TextRecord:
    """A text or a pair of texts, and its label; label: None if unknown.

    id: number of the record in its split, from 0 (`numbered`).
    where: "file, line N", for error messages about this record.
    """

    id: str
    text: str
    label: str | None
    text_pair: str | None = None
    where: str = ""


@dataclass(frozen=True)
class SummaryRecord:
    """A document and its reference summaries; none if they are unknown.

    The first summary is the target in training.  id, where: as in a TextRecord.
    """

    id: str
    document: str
    summaries: tuple[str, ...]
    where: str = ""


def builtin(name: str) -> Path:
    """The path of a file of the data sets that come with minift."""
    return Path(__file__).parent / "builtin" / name


def numbered(records: Iterable[RecordType]) -> list[RecordType]:
    """Number the records of several files consecutively, as if they came from one file."""
    return [replace(record, id=str(i)) for i, record in enumerate(records)]


# ---- rows -> records ---------------------------------------------------------------------------


def read_classification(
    path: str | os.PathLike,
    *,
    text_column: str = "text",
    pair_column: str = "text_pair",
    label_column: str = "label",
    require_label: bool = True,
) -> list[TextRecord]:
    """The records of a classification file.

    The header of a CSV, or the keys of JSON, name the columns.  A TSV has no header: its columns
    are text and label, or text, pair and label.  If they are in another order, give their numbers,
    from 0.  A line of CoLA is

        source<TAB>label<TAB>mark<TAB>sentence        text_column="3", label_column="1"

    Texts are not changed.  Labels are stripped of surrounding whitespace, and an integer label in
    JSON becomes a decimal string.  With `require_label=False` labels may be missing or empty, and a
    line of a TSV may hold only a text; a TSV then ignores named columns, other files numbered ones.

    Raises `UserError`, with file and line, for anything else.
    """
    path = Path(path)
    reader = reader_of(path)
    if not require_label and (reader is read_tsv) != text_column.isdecimal():
        text_column, pair_column, label_column = "text", "text_pair", "label"
    records: list[TextRecord] = []
    for row in reader(path, {"text": text_column, "text_pair": pair_column, "label": label_column}):
        where = location(path, row.line)
        paired = row.fields.get("text_pair") is not None
        if pair_column != "text_pair" and not paired:
            raise UserError(_missing(row, pair_column, where))
        if records and paired != (records[0].text_pair is not None):
            has, first = ("a", "has none") if paired else ("no", "has one")
            raise UserError(
                f"{where}: has {has} {pair_column!r}, but the first record {first}; give either "
                "pairs or single texts"
            )
        record = TextRecord(
            id=str(len(records)),
            text=_text(row, "text", text_column, where),
            label=_label(row, label_column, where, require_label),
            text_pair=_text(row, "text_pair", pair_column, where) if paired else None,
            where=where,
        )
        records.append(record)
    if not records:
        raise UserError(f"{path}: holds no record; give a file with at least one")
    return records


def read_summaries(path: str | os.PathLike, *, require_summary: bool = True) -> list[SummaryRecord]:
    """The records of a JSONL file: {"document": ..., "summary": ..., "summaries": [...]}.

    One of "summary" and "summaries" is enough.  With both, "summary" becomes the first summary.
    Raises `UserError`, with file and line, for anything else.
    """
    path = Path(path)
    if reader_of(path) is not read_jsonl:
        raise UserError(f"{path}: summaries are read from .jsonl or .json; give such a file")
    records: list[SummaryRecord] = []
    for row in read_jsonl(path, {name: name for name in ("document", "summary", "summaries")}):
        where = location(path, row.line)
        document = _text(row, "document", "document", where)
        several = row.fields.get("summaries") or []
        if not isinstance(several, list):
            raise UserError(f"{where}: 'summaries' is {shown(several)}; it must be a list")
        texts = [row.fields[name] for name in ("summary",) if name in row.fields] + several
        if require_summary and not texts:
            raise UserError(_missing(row, "summary", where))
        summaries = tuple(dict.fromkeys(text_of(text, "summary", where) for text in texts))
        records.append(SummaryRecord(str(len(records)), document, summaries, where))
    if not records:
        raise UserError(f"{path}: holds no record; give a file with at least one")
    return records


def records_of(lines: Iterable[str]) -> Iterator[TextRecord]:
    """Records without labels, for prediction, from lines of text: text[<TAB>pair]."""
    for i, line in enumerate(lines):
        values = line.rstrip("\r\n").split("\t", maxsplit=1)
        row = Row(i + 1, dict(zip(("text", "text_pair"), values, strict=False)), ())
        where = f"input {row.line}"
        pair = _text(row, "text_pair", "text_pair", where) if len(values) == 2 else None
        yield TextRecord(str(i), _text(row, "text", "text", where), None, pair, where)


def _text(row: Row, name: str, column: str, where: str) -> str:
    if name not in row.fields:
        raise UserError(_missing(row, column, where))
    return text_of(row.fields[name], column, where)


def text_of(value: Any, column: str, where: str) -> str:
    """The value, if it is a string that is not blank; else `UserError`."""
    if not isinstance(value, str):
        raise UserError(f"{where}: {column!r} is {shown(value)}; it must be a string")
    if not value.strip():
        raise UserError(f"{where}: {column!r} is empty; fill it in or remove the record")
    return checked(value, column, where)


def _label(row: Row, column: str, where: str, required: bool) -> str | None:
    value = row.fields.get("label")
    if not required and (value is None or value == ""):
        return None
    if "label" not in row.fields:
        raise UserError(_missing(row, column, where))
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: {column!r} is {shown(value)}; it must be a string or an integer")
    label = str(value).strip()
    if not label:
        raise UserError(f"{where}: {column!r} is empty; every record needs a label")
    return checked(label, column, where)


def _missing(row: Row, column: str, where: str) -> str:
    """The error message for a missing column."""
    found = ", ".join(row.found)[:80]
    return (
        f"{where}: has no {column!r}, only {found!r}; add it, or choose another column if the "
        "script has a flag for it"
    )


def shown(value: Any) -> str:
    """A value as JSON, truncated to 60 characters, for error messages.

    >>> shown(None), shown([1, 2])
    ('null', '[1, 2]')
    """
    return json.dumps(value)[:60]


def checked(text: str, column: str, where: str) -> str:
    """The text; `UserError` if it holds half of a character, which JSON can write as "\\ud83d"."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: {column!r} holds U+{ord(text[error.start]):04X}, half of a surrogate pair; "
            "write the whole character, or remove it"
        ) from None
    return text


# ---- files -> rows -----------------------------------------------------------------------------


class Row(NamedTuple):
    """Fields under minift's names, the line where the row begins, and the names in the file."""

    line: int
    fields: dict[str, Any]
    found: Collection[str]


Reader = Callable[[Path, Mapping[str, str]], Iterator[Row]]  # (path, minift's name -> column)


def reader_of(path: Path) -> Reader:
    """The reader for a file with this ending."""
    readers: dict[str, Reader] = {
        ".tsv": read_tsv,
        ".txt": read_tsv,
        ".csv": read_csv,
        ".jsonl": read_jsonl,
        ".json": read_jsonl,
    }
    ending = os.path.splitext(path.name.lower().removesuffix(".gz"))[1]
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give a file")
    if ending not in readers:
        raise UserError(
            f"{path}: the ending {ending!r} is not one that minift reads; give a file that ends in "
            f"{', '.join(readers)}, or in one of these and .gz"
        )
    return readers[ending]


def read_tsv(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    """Tab-separated fields without a header or quoting; blank lines are skipped.

    All lines must have as many fields as the first one, so that a tab within a text is an error.
    """
    numbers = _numbers(path, columns)
    names: dict[str, int] = {}
    width = first = 0
    for number, line in read_lines(path):
        if not line.strip(" \r"):
            continue
        values = line.split("\t")
        if not width:
            width, first = len(values), number
            names = _tsv_names(location(path, number), width, numbers)
            if "label" in names and values[names["label"]].strip().lower() == "label":
                raise UserError(
                    f"{location(path, number)}: {line[:60]!r} looks like a header, and a TSV has "
                    "none; remove the line"
                )
        if len(values) != width:
            raise UserError(
                f"{location(path, number)}: the number of columns is {len(values)}, on line "
                f"{first} it is {width}; separate columns, and nothing else, by one tab"
            )
        yield Row(number, {name: values[i] for name, i in names.items()}, names)


def _numbers(path: Path, columns: Mapping[str, str]) -> dict[str, int] | None:
    """The columns of a TSV that are given by number; None for the default columns."""
    numbers = {name: int(c) for name, c in columns.items() if c.isascii() and c.isdecimal()}
    for name, column in columns.items():
        if name not in numbers and (column != name or (numbers and name == "text")):
            raise UserError(
                f"{path}: the column of the {name} is {column!r}, but a TSV has no header with "
                "names; give the numbers of its columns, counted from 0"
            )
    return numbers or None


def _tsv_names(where: str, width: int, numbers: dict[str, int] | None) -> dict[str, int]:
    """The number of each field, in lines of `width` fields; the only field is the text.

    >>> _tsv_names("x.tsv, line 1", 3, None)
    {'text': 0, 'text_pair': 1, 'label': 2}
    """
    if numbers is not None and width > 1:
        last = max(numbers.values())
        if last >= width:
            raise UserError(
                f"{where}: the number of columns is {width}, so there is no column {last} counted "
                "from 0; correct the line or the number"
            )
        return numbers
    orders = {1: ("text",), 2: ("text", "label"), 3: ("text", "text_pair", "label")}
    if width not in orders:
        raise UserError(
            f"{where}: the number of columns is {width}; write text<TAB>label or "
            "text<TAB>pair<TAB>label, or give the numbers of its columns, counted from 0"
        )
    return {name: i for i, name in enumerate(orders[width])}


def read_csv(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    """Comma-separated fields with a header; a quoted field may hold commas and line ends."""
    rows = csv.reader((line + "\n" for _, line in read_lines(path)), strict=True)
    start = 1  # the line on which the row begins; a row may continue over several lines
    try:
        header = [name.strip() for name in next(rows, [])]
        for column in columns.values():
            if header.count(column) > 1:
                raise UserError(
                    f"{location(path, 1)}: two columns are called {column!r}; rename one"
                )
        start = rows.line_num + 1
        for values in rows:
            if values and len(values) != len(header):
                raise UserError(
                    f"{location(path, start)}: the number of fields is {len(values)}, in the "
                    f"header it is {len(header)}; put a field that holds a comma in quotes"
                )
            if values:
                by_name = dict(zip(header, values, strict=True))
                fields = {name: by_name[c] for name, c in columns.items() if c in by_name}
                yield Row(start, fields, header)
            start = rows.line_num + 1
    except csv.Error as error:
        too_long = "limit" in str(error)
        remedy = "put such texts in a .jsonl file" if too_long else "correct the quotes"
        raise UserError(f"{location(path, start)}: not valid CSV ({error}); {remedy}") from None


def read_jsonl(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    """A JSON object on each line; blank lines are skipped."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "a number too large or nested too deeply")
            raise UserError(
                f"{location(path, number)}: {line.strip()[:40]!r} is not JSON ({reason}); write "
                "one whole object on each line"
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{location(path, number)}: {line.strip()[:40]!r} is not a JSON object; write "
                "one on each line"
            )
        yield Row(number, {name: row[c] for name, c in columns.items() if c in row}, row)


# ---- files -> lines ----------------------------------------------------------------------------


def read_lines(path: Path, max_line_bytes: int | None = None) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a text file in UTF-8, plain or gzipped.

    max_line_bytes: maximum number of bytes of a line; default: `MAX_LINE_BYTES`.

    Raises `UserError` for a longer line, a NUL byte, bytes that are not UTF-8, and a file that
    cannot be read.
    """
    max_line_bytes = MAX_LINE_BYTES if max_line_bytes is None else max_line_bytes
    number = 0
    try:
        with _open(path) as file:
            while data := file.readline(max_line_bytes + 1):
                number += 1
                if len(data) > max_line_bytes:
                    raise UserError(
                        f"{location(path, number)}: has more than {max_line_bytes:,} bytes; give a "
                        "text file, or split the line"
                    )
                if b"\0" in data:
                    raise UserError(
                        f"{location(path, number)}: byte {data.index(0) + 1} is NUL; give a text "
                        "file, converted to UTF-8"
                    )
                text = data.removeprefix(BOM if number == 1 else b"").decode()
                yield number, text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{location(path, number)}: byte {error.start + 1} is "
            f"0x{error.object[error.start]:02X}, which is not UTF-8; convert the file to UTF-8"
        ) from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged gzip ({error}); fetch or pack the file again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from None


def _open(path: Path) -> io.BufferedIOBase:
    """Open a file as bytes; a gzip only after checking its checksum, which is at its end.

    A damaged gzip may decompress to millions of lines of garbage.
    """
    if not path.name.lower().endswith(".gz"):
        return open(path, "rb")
    with gzip.open(path) as file:
        while file.read(2**20):
            pass
    return gzip.open(path)
