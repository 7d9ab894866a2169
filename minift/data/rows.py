"""Files in, rows out: the fields of a record, and its line for error messages.

    .tsv .txt     fields separated by tabs; a header only where columns are given by name; quotes
                  have no meaning
    .csv          a header line; fields may be quoted
    .jsonl .json  one JSON object a line, or one array of objects

All in UTF-8, with or without a byte-order mark, lines ended by LF, CRLF or (old Macs) CR, plain or
as `.gz`.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from minift.data.json_text import JsonError, JsonText
from minift.data.lines import MAX_LINE_BYTES, first_line, read_lines
from minift.errors import UserError, location

JSON_START = re.compile(r'(\[\s*)?\{\s*("|\}|$)|\[\s*$')


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
    if os.path.isdir(path):
        raise UserError(f"{path}: is a directory; give a file")
    if ending not in readers:
        raise UserError(
            f"{path}: the ending {ending!r} is not one that minift reads; give a file that ends in "
            f"{', '.join(readers)}, or in one of these and .gz"
        )
    if readers[ending] is read_tsv and path.is_file() and begins_json(path):
        return read_jsonl
    return readers[ending]


def read_tsv(path: Path, columns: Mapping[str, str], blank_lines: bool = False) -> Iterator[Row]:
    """Tab-separated fields without quoting.

    The first line is a header if it names the columns (`names_columns`).  All lines must have as
    many fields as the first one, so that a tab within a text is an error.  Blank lines are skipped;
    with `blank_lines` they are rows of a blank text.
    """
    names: dict[str, int] = {}
    header: Collection[str] = ()
    width = first = 0
    for number, line in read_lines(path):
        if not line.strip(" \r"):
            if blank_lines:
                yield Row(number, {"text": line}, names)
            continue
        values, where = line.split("\t"), location(path, number)
        if not width:
            width, first = len(values), number
            if names_columns(values, columns):
                header = _header(where, values, columns)
                names = {n: header.index(c) for n, c in columns.items() if c in header}
                continue
            names = _tsv_names(where, width, _numbers(where, columns))
        if len(values) != width:
            raise UserError(
                f"{where}: the number of columns is {len(values)}, on line "
                f"{first} it is {width}; separate columns, and nothing else, by one tab"
            )
        fields = {name: values[i] for name, i in names.items()}
        if header:
            _refuse_names(where, fields, columns)
        known = header or [f"column_{i}" for i in range(width)]
        used = set(names.values())
        extra = {known[i]: value for i, value in enumerate(values) if i not in used}
        yield Row(number, fields, header or names, extra)


def names_columns(values: Sequence[str], columns: Mapping[str, str]) -> bool:
    """Whether the first line of a TSV is a header: it names the text, and a column beside it.

    A name other than the default "text" is enough, because somebody chose it for this file.

    >>> default = {"text": "text", "text_pair": "text_pair", "label": "label"}
    >>> names_columns(["text", "good"], default), names_columns(["label", "text"], default)
    (False, True)
    >>> names_columns(["id", "review"], {**default, "text": "review"})
    True
    """
    header = [value.strip() for value in values]
    found = [name for name, c in columns.items() if not _is_number(c) and c in header]
    return "text" in found and (columns["text"] != "text" or len(found) > 1)


def has_header(path: Path, columns: Mapping[str, str]) -> bool:
    """Whether the first line of a TSV is a header."""
    return names_columns(first_line(path).split("\t"), columns)


def _is_number(column: str) -> bool:
    return column.isascii() and column.isdecimal()


def _header(where: str, values: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """The names of a header, each column that is read once."""
    header = [value.strip() for value in values]
    for column in columns.values():
        if header.count(column) > 1:
            raise UserError(f"{where}: two columns are called {column!r}; rename one")
    return header


def _refuse_names(where: str, fields: Mapping[str, Any], columns: Mapping[str, str]) -> None:
    """`UserError` for a record whose fields hold the names of their columns: a second header."""
    names = [columns[name] for name in fields]
    if len(names) > 1 and [str(value).strip() for value in fields.values()] == names:
        raise UserError(
            f"{where}: repeats the names of the columns ({', '.join(names)}) instead of a record; "
            "remove it, also where two files were joined"
        )


def _numbers(where: str, columns: Mapping[str, str]) -> dict[str, int] | None:
    """The columns of a TSV that are given by number; None for the default columns."""
    numbers = {name: int(c) for name, c in columns.items() if _is_number(c)}
    for name, column in columns.items():
        if name not in numbers and (column != name or (numbers and name == "text")):
            raise UserError(
                f"{where}: the column of the {name} is {column!r}, but the line is not a header "
                "that names the columns; add one, or give their numbers, counted from 0"
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
            "text<TAB>pair<TAB>label, or choose with --text-column and --label-column (numbers "
            "from 0, or the names in a header)"
        )
    return {name: i for i, name in enumerate(orders[width])}


def read_csv(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    """Comma-separated fields with a header; a quoted field may hold commas and line ends."""
    rows = csv.reader((line + "\n" for _, line in read_lines(path)), strict=True)
    start = 1  # the line on which the row begins; a row may continue over several lines
    try:
        header = _header(location(path, 1), next(rows, []), columns)
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
                _refuse_names(location(path, start), fields, columns)
                yield Row(start, fields, header, _without(by_name, columns))
            start = rows.line_num + 1
    except csv.Error as error:
        reason, remedy = str(error), "correct the quotes"
        if "limit" in reason:
            remedy = "put such texts in a .jsonl file"
        if "new-line" in reason:
            reason, remedy = "a carriage return without quotes", "put the field in quotes"
        raise UserError(f"{location(path, start)}: not valid CSV ({reason}); {remedy}") from None


def read_jsonl(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    """A JSON object on each line, blank lines skipped; or an array of objects on any lines."""
    for number, row in _json_values(path):
        where = location(path, number)
        if not isinstance(row, dict):
            raise UserError(
                f"{where}: {json.dumps(row)[:40]} is not a JSON object; write one on each line"
            )
        fields = {name: row[c] for name, c in columns.items() if c in row}
        _refuse_names(where, fields, columns)
        yield Row(number, fields, row, _without(row, columns))


def _json_values(path: Path) -> Iterator[tuple[int, Any]]:
    """(line where it begins, value): of each line, or of each item if the file is an array."""
    lines = read_lines(path)
    empty = True
    try:
        for number, line in lines:
            if empty and line.lstrip().startswith("["):
                pieces = chain([line], (f"\n{rest}" for _, rest in lines))
                text = JsonText(pieces, MAX_LINE_BYTES, number, UNIQUE_KEYS)
                for _ in text.items():
                    yield text.line, text.value()
                text.end()
            elif line.strip():
                text = JsonText([line], MAX_LINE_BYTES, number, UNIQUE_KEYS)
                value = text.value()
                text.end()
                yield number, value
            empty = empty and not line.strip()
    except JsonError as error:
        raise UserError(
            f"{location(path, error.line)}: {error.shown!r} is not JSON ({error.reason}); write "
            "one whole object on each line, or one array of objects"
        ) from None


class RepeatedKeyError(ValueError):
    """A key occurs twice in an object.  msg: as in a `json.JSONDecodeError`."""

    @property
    def msg(self) -> str:
        return str(self)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        key = next(key for key in keys if keys.count(key) > 1)
        raise RepeatedKeyError(f"the key {key!r:.40} occurs twice")
    return found


UNIQUE_KEYS = json.JSONDecoder(object_pairs_hook=_unique)


def _without(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    used = set(columns.values())
    return {name: value for name, value in row.items() if name not in used}


def begins_json(path: Path) -> bool:
    """Whether a file's first line begins a JSON object, whatever the file is called."""
    return JSON_START.match(first_line(path).lstrip()) is not None
