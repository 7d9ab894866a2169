"""Files in, typed records out; errors name the file and the line.

    .tsv .txt     text<TAB>label, or text<TAB>pair<TAB>label; quotes have no meaning; no header,
                  unless columns are chosen by their names in one
    .csv          a header line with text[, text_pair], label; fields may be quoted
    .jsonl .json  one JSON object a line, or an array of them:
                  {"text": ..., "text_pair": ..., "label": ...}

All in UTF-8, with or without a byte-order mark, lines ended by LF, CRLF or (old Macs) CR, plain or
as `.gz`.

A reader for each kind of file (rows.py) yields rows: the fields, and their line.  A function for
each task converts rows to records, checks their values, and yields them one by one, as prediction
reads them.  `read_classification` and `read_summaries` give training all of them.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from minift.data.rows import Row, has_header, read_tsv, reader_of
from minift.errors import UserError, location
from minift.terminal import print_line

RecordType = TypeVar("RecordType")

# What may name a column: at most three words and 30 characters, with a letter, as "#1 String".
COLUMN_NAME = re.compile(r"(?=.{1,30}$)(?=.*[^\W\d_])[\w#.-]+( [\w#.-]+){0,2}(?<!\.)")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


@dataclass(frozen=True)
class TextRecord:
    """A text or a pair of texts, and its label; label: None if unknown.

    id: number of the record in its split, from 0 (`numbered`).
    where: "file, line N", for error messages about this record.
    extra: the other columns of the file; not part of `repr`, from which a run's digest of the data
        is made, because they do not change the training.
    """

    id: str
    text: str
    label: str | None
    text_pair: str | None = None
    where: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_blank(self) -> bool:
        """Nothing to predict; only prediction reads such a record."""
        return any(text is not None and not text.strip() for text in (self.text, self.text_pair))


@dataclass(frozen=True)
class SummaryRecord:
    """A document and its reference summaries; none if they are unknown.

    The first summary is the target in training.  id, where, extra: as in a TextRecord.
    """

    id: str
    document: str
    summaries: tuple[str, ...]
    where: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_blank(self) -> bool:
        """Nothing to summarize; only prediction reads such a record."""
        return not self.document.strip()


def builtin(name: str) -> Path:
    """The path of a file of the data sets that come with minift."""
    return Path(__file__).parent / "builtin" / name


def numbered(records: Iterable[RecordType]) -> list[RecordType]:
    """Number the records of several files consecutively, as if they came from one file."""
    return [replace(record, id=str(i)) for i, record in enumerate(records)]


def read_classification(
    path: str | os.PathLike,
    *,
    text_column: str = "text",
    pair_column: str = "text_pair",
    label_column: str = "label",
    require_label: bool = True,
) -> list[TextRecord]:
    """The records of a classification file, as `classification_records` yields them.

    With `require_label`, a header that no column was chosen by is an error too.
    """
    columns = {"text": text_column, "text_pair": pair_column, "label": label_column}
    names = {"text_column": text_column, "pair_column": pair_column, "label_column": label_column}
    records = list(classification_records(path, **names, require_label=require_label))
    path = Path(path)
    if require_label and reader_of(path) is read_tsv and not has_header(path, columns):
        _refuse_header(records)
    return records


def classification_records(
    path: str | os.PathLike,
    *,
    text_column: str = "text",
    pair_column: str = "text_pair",
    label_column: str = "label",
    require_label: bool = True,
) -> Iterator[TextRecord]:
    """Yield the records of a classification file.

    The header of a CSV, or the keys of JSON, name the columns.  The columns of a TSV are text and
    label, or text, pair and label.  For others give their numbers, from 0, or their names in its
    header; a header that is not used is an error.  A line of CoLA is

        source<TAB>label<TAB>mark<TAB>sentence        text_column="3", label_column="1"

    Texts are not changed.  Labels are stripped of surrounding whitespace, and an integer label in
    JSON becomes a decimal string.  With `require_label=False`, for prediction, a label may be
    anything or missing, a line of a TSV may hold only a text, and a blank line of a TSV is a record
    like any other.

    Raises `UserError`, with file and line, for anything else.
    """
    path = Path(path)
    reader = reader_of(path)
    columns = {"text": text_column, "text_pair": pair_column, "label": label_column}
    if reader is read_tsv and not require_label:
        rows = read_tsv(path, columns, blank_lines=True)
    else:
        rows = reader(path, columns)
    count = 0
    first: TextRecord | None = None  # that is not blank
    for count, row in enumerate(rows, start=1):
        where = location(path, row.line)
        text = _text(row, "text", text_column, where, require_label)
        paired = row.fields.get("text_pair") is not None
        if pair_column != "text_pair" and not paired and text.strip():
            raise UserError(_missing(row, "text_pair", pair_column, where))
        if first and paired != (first.text_pair is not None) and text.strip():
            has, other = ("a", "has none") if paired else ("no", "has one")
            raise UserError(
                f"{where}: has {has} {pair_column!r}, but the first record {other}; give either "
                "pairs or single texts"
            )
        record = TextRecord(
            id=str(count - 1),
            text=text,
            label=_label(row, label_column, where, require_label),
            text_pair=_text(row, "text_pair", pair_column, where, require_label)
            if paired
            else None,
            where=where,
            extra=row.extra,
        )
        first = first or (record if text.strip() else None)
        yield record
    if not count:
        raise UserError(f"{path}: holds no record; give a file with at least one")


def _refuse_header(records: Sequence[TextRecord]) -> None:
    """`UserError` if the first record of a TSV is the names of the columns.

    That is so if all its fields look like names, no other record has its label, and the label is
    "label"; or else its texts are short beside the others, and the other labels are numbers or
    recur.
    """
    first, *others = records
    names = [name.strip() for name in (first.text, first.text_pair, first.label) if name]
    if first.label is None or not all(COLUMN_NAME.fullmatch(name) for name in names):
        return
    labels = Counter(record.label for record in others if record.label is not None)
    numbers = all(NUMBER.fullmatch(label) for label in labels)
    recur = bool(labels) and (numbers or len(labels) * 2 <= labels.total())
    lengths = sorted(len(record.text + (record.text_pair or "")) for record in others)
    short = bool(others) and len("".join(names[:-1])) < 0.75 * lengths[len(lengths) // 2]
    if first.label in labels or (first.label.lower() != "label" and not (recur and short)):
        return
    flags = ["--text-column", "--pair-column", "--label-column"]
    chosen = zip(flags if first.text_pair else flags[::2], names, strict=True)
    given = shlex.join(part for pair in chosen for part in pair)
    raise UserError(
        f"{first.where}: looks like a header, because no other record has the label "
        f"{first.label!r}; choose its columns ({given}), or remove the line; if it is "
        "a record, move it below another record"
    )


def read_summaries(path: str | os.PathLike, **settings: Any) -> list[SummaryRecord]:
    """The records of a file of summaries; the settings are those of `summary_records`."""
    return list(summary_records(path, **settings))


def summary_records(
    path: str | os.PathLike,
    *,
    document_column: str = "document",
    summary_column: str = "summary",
    require_summary: bool = True,
    skip_bad: bool = False,
) -> Iterator[SummaryRecord]:
    """Yield the records of a CSV with a header, or of JSONL: {"document": ..., "summary": ...}.

    JSONL may have a list of "summaries" beside the summary, or instead of it.  With both, the
    summary becomes the first one.  With `require_summary=False`, as for prediction, summaries that
    are missing or cannot be used are unknown.  Raises `UserError`, with file and line, for anything
    else.  With `skip_bad=True` a bad record is skipped instead, and the count is printed.
    """
    path = Path(path)
    reader = reader_of(path)
    if reader is read_tsv:
        raise UserError(f"{path}: summaries are read from .jsonl, .json or .csv; give such a file")
    columns = {"document": document_column, "summary": summary_column, "summaries": "summaries"}
    count = 0
    skipped: list[UserError] = []
    for row in reader(path, columns):
        where = location(path, row.line)
        try:
            document = _text(row, "document", document_column, where, require_summary)
            summaries = _summaries(row, columns, where, require_summary)
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(error)
            continue
        yield SummaryRecord(str(count), document, summaries, where, row.extra)
        count += 1
    print_skipped(skipped, count + len(skipped))
    if not count:
        raise UserError(f"{path}: holds no record; give a file with at least one")


def _summaries(row: Row, columns: Mapping[str, str], where: str, required: bool) -> tuple[str, ...]:
    """The summaries of a document, each once; none if they cannot be used and none is required."""
    try:
        several = row.fields.get("summaries") or []
        if not isinstance(several, list):
            raise UserError(f"{where}: 'summaries' is {shown(several)}; it must be a list")
        texts = [row.fields["summary"], *several] if "summary" in row.fields else several
        if not texts and "summaries" not in row.fields:
            raise UserError(_missing(row, "summary", columns["summary"], where))
        if not texts:
            raise UserError(f"{where}: 'summaries' is empty; add one or remove the record")
        return tuple(dict.fromkeys(text_of(text, columns["summary"], where) for text in texts))
    except UserError:
        if required:
            raise
        return ()


def print_skipped(skipped: Sequence[UserError], total: int) -> None:
    """Print how many records of a file were skipped (--skip-bad-records), and why the first was."""
    if skipped:
        message = f"warning: {len(skipped)} of {total} records are skipped; the first: {skipped[0]}"
        print_line(" ".join(message.split()))


def records_of(lines: Iterable[str]) -> Iterator[TextRecord]:
    """Records without labels, for prediction, from lines of text: text[<TAB>pair]; also blank."""
    for i, line in enumerate(lines):
        text, tab, pair = line.rstrip("\r\n").partition("\t")
        yield TextRecord(str(i), text, None, pair if tab else None, f"input {i + 1}")


def _text(row: Row, name: str, column: str, where: str, required: bool = True) -> str:
    """A text of a row.  required: it may not be blank or null, which is "" then."""
    if name not in row.fields:
        raise UserError(_missing(row, name, column, where))
    value = row.fields[name]
    if not required and (value is None or (isinstance(value, str) and not value.strip())):
        return value or ""
    return text_of(value, column, where)


def is_text(value: Any) -> bool:
    """Whether a value is a string that is not blank and that UTF-8 can hold."""
    try:
        text_of(value, "", "")
    except UserError:
        return False
    return True


def text_of(value: Any, column: str, where: str) -> str:
    """The value, if it is a string that is not blank; else `UserError`."""
    if not isinstance(value, str):
        raise UserError(f"{where}: {column!r} is {shown(value)}; it must be a string")
    if not value.strip():
        raise UserError(f"{where}: {column!r} is empty; fill it in or remove the record")
    return checked(value, column, where)


def _label(row: Row, column: str, where: str, required: bool) -> str | None:
    value = row.fields.get("label")
    if not required:
        return str(value).strip() if is_text(str(value)) and _is_scalar(value) else None
    if "label" not in row.fields:
        raise UserError(_missing(row, "label", column, where))
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: {column!r} is {shown(value)}; it must be a string or an integer")
    label = str(value).strip()
    if not label:
        raise UserError(f"{where}: {column!r} is empty; every record needs a label")
    return checked(label, column, where)


def _is_scalar(value: Any) -> bool:
    """Whether a value may be meant as a label: a string or a number, such as 1.0 or "?"."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int) and not isinstance(value, bool)


def _missing(row: Row, name: str, column: str, where: str) -> str:
    """The error message for a missing column.  name: minift's name of the field."""
    flag = "pair" if name == "text_pair" else name
    found = ", ".join(map(str, row.found))[:80]
    return f"{where}: has no {column!r}, only {found!r}; add it, or choose one with --{flag}-column"


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
