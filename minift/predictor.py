"""Prediction with a saved model of any task, for inputs that may come as a stream."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch

from minift.data.lines import MAX_LINE_BYTES
from minift.data.streams import part_of, preview
from minift.errors import UserError
from minift.models.base import PretrainedModel
from minift.nn.int8 import quantize_int8
from minift.tasks.base import Task
from minift.tasks.display import is_blank
from minift.tasks.registry import task_of
from minift.terminal import json_line, warn


def predict_lines(
    folder: str | Path,
    lines: str | Path | Iterable[str],
    questions: Sequence[str] = (),
    as_json: bool = False,
    colour: bool = False,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    int8: bool = False,
    *,
    as_csv: bool = False,
    columns: Mapping[str, Any] | None = None,
    at_once: bool = False,
    warn: Callable[[str], object] = warn,
) -> Iterator[str]:
    """Yield one string for each input, in the order of the inputs: text for people, JSON or CSV.

    A blank input gives an empty string, or an object with null for each result.

    folder: output directory of a training script.
    lines: texts, or the path of a file in a format of the task's training data, labels optional.
    questions: asked of each text; only for question answering.
    as_json: a JSON object for each input, in one line.
    colour: mark the findings with a terminal's colours, if the task has any to mark.
    int8: compute linear layers in 8-bit integers, on the CPU: faster and slightly less exact.
    as_csv: the fields of the JSON object as a line of CSV, after a header.
    columns: where a file has its columns, `text_column` -> "review"; default: as in training.
    at_once: predict each line before reading the next, as for somebody who types them.
    warn: called with each warning; default: print to stderr.

    Inputs are read, predicted and yielded a thousand at a time (data/streams.py), so the memory
    does not grow with their number.  Raises `UserError` for a folder or an input that cannot be
    used, after the results of the inputs before it, but at once in the first thousand of a file.
    """
    task, model = task_of(folder).from_pretrained(folder)
    model.register_forward_hook(_refuse_nan(folder))
    model = quantize_int8(model.to(device)) if int8 else model.to(device)
    lines = Path(lines) if isinstance(lines, str) else lines
    if isinstance(lines, Path):
        _refuse_pipe(lines)
    else:
        lines = map(_checked, lines, range(1, sys.maxsize))
    records = task.read_inputs(lines, questions, columns)
    first: list[Any] = []
    if isinstance(lines, Path):
        first, records = preview(task.check_inputs(records, warn))
    results = _results(task, model, records, batch_size, at_once, warn)
    if as_csv:
        rows = (_row(task, result) for result in results)
        yield from _csv_lines(rows, _extra_columns(first), warn)
        return
    for result in results:
        if as_json:
            yield json_line(_row(task, result))
        elif is_blank(result.record):
            yield ""
        else:
            yield from task.display.to_lines([result.prediction], [result.record], colour)


def _refuse_pipe(path: Path) -> None:
    """`UserError` for a pipe or a device, which cannot be opened twice and may have no end."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(
            f"{path}: is a pipe or a device, not a file; pipe its lines into standard input, "
            "without --file, or write them to a file"
        )


class Result(NamedTuple):
    """A record and its prediction; truncated: tokens were cut off, None if the task cuts none."""

    record: Any
    prediction: Any
    truncated: bool | None


def _results(
    task: Task,
    model: PretrainedModel,
    records: Iterable[Any],
    batch_size: int,
    at_once: bool,
    warn: Callable[[str], object],
) -> Iterator[Result]:
    total = num_truncated = 0
    try:
        for chunk in _chunks(iter(records), at_once):
            for part, features in _featurized(task, chunk):
                predictions = task.predict(model, features, batch_size)
                truncated = truncated_records(features)
                total += len(part)
                num_truncated += len(truncated or ())
                for i, pair in enumerate(zip(part, predictions, strict=True)):
                    yield Result(*pair, None if truncated is None else i in truncated)
    finally:
        if num_truncated:
            warn(
                f"{num_truncated} of {total} inputs have more than {task.max_length} tokens and "
                'were truncated; --json and --csv mark them as "truncated"'
            )


def _row(task: Task, result: Result) -> dict[str, Any]:
    (row,) = task.display.full_rows([result.prediction], [result.record])
    if result.truncated is None:
        return row
    kept = {"input_truncated": row.pop("truncated")} if "truncated" in row else {}
    return {**row, "truncated": result.truncated, **kept}


def truncated_records(features: Sequence[Any]) -> set[int] | None:
    """The records that lost tokens; None if the task's features do not say.

    The windows of a long text are each a part of it, but together they hold all of it.
    """
    if not all(hasattr(feature, "truncated") for feature in features):
        return None
    counts: dict[int, int] = {}
    for feature in features:
        counts[feature.record] = counts.get(feature.record, 0) + 1
    return {f.record for f in features if f.truncated and counts[f.record] == 1}


def _chunks(records: Iterator[Any], at_once: bool) -> Iterator[list[Any]]:
    """The records in chunks; an error of reading is raised after what was read before it.

    The records of a chunk are sorted by length and predicted together.
    """
    error: UserError | None = None
    while error is None:
        chunk: list[Any] = []
        try:
            for record in islice(records, 1) if at_once else part_of(records):
                chunk.append(record)  # one by one, so that an error keeps those before it
        except UserError as found:
            error = found
        if chunk:
            yield chunk
        elif error is None:
            return
    raise error


def _featurized(task: Task, records: list[Any]) -> Iterator[tuple[list[Any], list[Any]]]:
    """(records, features); a record that has none is an error after those before it."""
    try:
        features = task.featurize(records)
    except UserError:
        if len(records) == 1:
            raise
        for record in records:
            yield [record], task.featurize([record])
    else:
        yield records, features


# ---- standard input and output -------------------------------------------------------------------


def lines_of(stream: TextIO | None) -> Iterator[str]:
    """The lines of standard input; `UserError` for one that is too long or not in its encoding.

    A line is read up to the limit only, because it may never end.
    """
    if stream is None:
        raise UserError("standard input is closed; give texts, a file with --file, or a pipe")
    if not hasattr(stream, "buffer"):
        yield from stream
        return
    for number in count(1):
        try:
            line = stream.buffer.readline(MAX_LINE_BYTES + 1)
        except OSError as error:
            raise UserError(f"standard input cannot be read ({error.strerror})") from None
        if not line:
            return
        if len(line) > MAX_LINE_BYTES:
            raise UserError(
                f"input {number}: has more than {MAX_LINE_BYTES:,} bytes; divide the text"
            )
        try:
            text = line.decode(stream.encoding)
        except UnicodeDecodeError as error:
            raise UserError(
                f"input {number}: byte {error.start + 1} is 0x{line[error.start]:02X}, which is "
                f"not {stream.encoding.upper()}; convert the text, or set PYTHONIOENCODING to its "
                "encoding"
            ) from None
        yield text.removeprefix("\ufeff") if number == 1 else text


def _checked(line: str, number: int) -> str:
    try:
        line.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"input {number}: {line.strip()[:40]!r} is not text in UTF-8; convert it"
        ) from None
    return line


# ---- a model that does not compute ---------------------------------------------------------------


def _refuse_nan(folder: Path) -> Callable[..., None]:
    """A hook that raises `UserError` for NaN among the outputs of the model."""

    def check(model: torch.nn.Module, inputs: Any, outputs: Any) -> None:
        for output in outputs if isinstance(outputs, tuple) else (outputs,):
            if not output.isfinite().all():
                raise UserError(
                    f"{folder}: the model's outputs are NaN or infinite, so it predicts nothing; "
                    "restore its files, or train it again"
                )

    return check


# ---- CSV -----------------------------------------------------------------------------------------


def _extra_columns(records: Sequence[Any]) -> list[str]:
    """The names of the columns that the file has beside those that were read.

    records: the first part of the file.
    """
    return list(dict.fromkeys(name for r in records for name in getattr(r, "extra", {})))


def _csv_lines(
    rows: Iterator[dict[str, Any]], extra: Sequence[str], warn: Callable[[str], object]
) -> Iterator[str]:
    """A header and the rows.  extra: columns that the first row may lack.

    A column that occurs only later is left out, and a warning at the end says so.
    """
    first = next(rows, None)
    if first is None:
        return
    missing = (name for name in extra if name not in first and f"input_{name}" not in first)
    header = [*first, *(name for name in missing if name != "id")]
    yield _csv_line(header)
    names, unwritten, example = set(header), 0, ""
    try:
        for row in chain([first], rows):
            if missed := [name for name in row if name not in names]:
                unwritten += 1
                example = example or missed[0]
            yield _csv_line([row.get(name) for name in header])
    finally:
        if unwritten:
            warn(
                f"{unwritten} records have a column that the first part of the file lacks, such as "
                f"{example!r:.60}, which --csv leaves out; --json writes it"
            )


def _csv_line(values: Sequence[Any]) -> str:
    """Lists and objects are written as JSON, null as an empty field."""
    cells = [
        json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | tuple) else value
        for value in values
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(
        cells
    )  # so a cell with either character is quoted
    return text.getvalue().removesuffix("\r\n")
