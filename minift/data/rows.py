"""Files in, rows out: the fields of a record, and its line for error messages.

    .tsv .txt     fields separated by tabs; no header; quotes have no meaning
    .csv          a header line; fields may be quoted
    .jsonl .json  one JSON object a line

All in UTF-8, with or without a byte-order mark, lines ended by LF or CRLF, plain or as `.gz`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minift.errors import UserError, location

MAX_LINE_BYTES = 10_000_000  # bytes; a longer line is a damaged file, not a text
JSON_START = re.compile(r'\{\s*("|\}|$)')
BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """Fields under minift's names, the line where the row begins, and the names in the file.

    extra: the other columns, under their names in the file, or as column_N in a TSV.
    """

    line: int
    fields: dict[str, Any]
    found: Collection[str]
    extra: Mapping[str, Any] = {}


Reader = Callable[[Path, Mapping[str, str]], Iterator[Row]]  # (path, minift's name -> column)


def reader_of(path: Path) -> Reader:
    """The reader for a file with this ending; JSON lines are recognised in a .tsv or .txt too."""
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
    if readers[ending] is read_tsv and path.is_file() and _is_json_object(first_line(path)):
        return read_jsonl
    return readers[ending]


def read_tsv(path: Path, columns: Mapping[str, str], blank_lines: bool = False) -> Iterator[Row]:
    """Tab-separated fields without a header or quoting.

    All lines must have as many fields as the first one, so that a tab within a text is an error.
    Blank lines are skipped; with `blank_lines` they are rows of a blank text.
    """
    numbers = _numbers(path, columns)
    names: dict[str, int] = {}
    width = first = 0
    for number, line in read_lines(path):
        if not line.strip(" \r"):
            if blank_lines:
                yield Row(number, {"text": line}, names)
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
        used = set(names.values())
        extra = {f"column_{i}": value for i, value in enumerate(values) if i not in used}
        yield Row(number, {name: values[i] for name, i in names.items()}, names, extra)


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
                yield Row(start, fields, header, _without(by_name, columns))
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
        fields = {name: row[c] for name, c in columns.items() if c in row}
        yield Row(number, fields, row, _without(row, columns))


def _without(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    used = set(columns.values())
    return {name: value for name, value in row.items() if name not in used}


def begins_json(path: Path) -> bool:
    """Whether a file's first line begins a JSON object, whatever the file is called."""
    return JSON_START.match(first_line(path)) is not None


def first_line(path: Path) -> str:
    """The first line that is not blank, without blanks around it; "" if there is none."""
    lines = (line.strip() for _, line in read_lines(path, max_line_bytes=2**31 - 1))
    return next((line for line in lines if line), "")


def _is_json_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


# ---- files -> lines ------------------------------------------------------------------------------


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
