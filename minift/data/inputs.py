"""Texts and pairs of texts for prediction: lines or a file -> records whose labels do not matter.

    text                     each line of standard input, of a .txt or of a .tsv
    text<TAB>label           a file for a model of single texts; the label is shown, not needed
    text<TAB>pair            lines or a file, for a model that was trained on pairs
    text<TAB>pair<TAB>label  a file

CSV and JSONL name their columns.  The columns of the training data are saved with the model and
used where a file can have them; the flags of predict.py replace them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from minift.data.lines import first_line
from minift.data.read import TextRecord, classification_records, records_of
from minift.data.rows import has_header, read_tsv, reader_of
from minift.data.streams import preview
from minift.errors import UserError

DEFAULT_NAMES = {"text": "text", "text_pair": "text_pair", "label": "label"}
PAIR_ADVICE = ", or name the column of the second text with --pair-column"
SINGLE_ADVICE = ", or name the column of the text with --text-column"


def read_texts(
    source: Path | Iterable[str],
    columns: Mapping[str, str],
    given: Mapping[str, str],
    pairs: bool | None,
    labels: Sequence[str],
) -> Iterator[TextRecord]:
    """Yield the records of a file, or of lines, for a model of pairs or of single texts.

    columns: `text_column`, `pair_column` and `label_column` of the training data.
    given: those that the user named for this file, in place of the saved ones.
    pairs: the model reads pairs of texts, or single texts; None: it does not say.
    labels: of the model.

    Raises `UserError` for a pair where the model reads single texts, and the reverse.  Whether the
    second column of a file holds labels is decided from its first part (`preview`).
    """
    if not isinstance(source, Path):
        for record in records_of(source):
            yield _checked(record, pairs, "", "")
        return
    found = _columns_for(source, columns, given, pairs)
    records: Iterator[TextRecord] = classification_records(source, **found, require_label=False)
    if given and "pair_column" not in given and not pairs:
        records = (replace(record, text_pair=None) for record in records)
    first, records = preview(records)
    # The first record may be the header of a file without names that the model knows.
    seconds = {record.text_pair for record in first[1:] or first if not record.is_blank}
    if pairs and not given and seconds and seconds <= set(labels):
        raise UserError(
            f"{source}: the second column holds labels ({', '.join(sorted(seconds))}), not the "
            "second text of each pair, which the model needs; add it, or name the columns with "
            "--text-column and --pair-column"
        )
    for record in records:
        yield _checked(record, pairs, PAIR_ADVICE, SINGLE_ADVICE)


def _columns_for(
    path: Path, columns: Mapping[str, str], given: Mapping[str, str], pairs: bool | None
) -> Mapping[str, str]:
    """The columns to read: those given, and else the saved ones if such a file can have them.

    A TSV without a header has numbers for columns, other files have names; else both have their
    default order.
    """
    is_tsv = reader_of(path) is read_tsv
    names = {name.removesuffix("_column"): column for name, column in columns.items()}
    names["text_pair"] = names.pop("pair")
    has_names = not is_tsv or has_header(path, names)
    found: Mapping[str, str] = {}
    if has_names != columns["text_column"].isdecimal():
        found = columns
    elif is_tsv and not has_header(path, DEFAULT_NAMES):
        if pairs and first_line(path).count("\t") == 1:
            found = {"text_column": "0", "pair_column": "1"}
        elif any(column.isdecimal() for column in given.values()):
            found = {"text_column": "0", **({"pair_column": "1"} if pairs else {})}
    if not given:
        return found
    return {**{n: c for n, c in found.items() if n != "label_column"}, **given}


def _checked(
    record: TextRecord, pairs: bool | None, pair_advice: str, single_advice: str
) -> TextRecord:
    if record.text_pair is None and pairs and not record.is_blank:
        raise UserError(
            f"{record.where}: {record.text[:40]!r} is a single text, but the model was trained on "
            f"pairs; write text<TAB>pair{pair_advice}"
        )
    if record.text_pair is not None and pairs is False:
        raise UserError(
            f"{record.where}: {record.text[:40]!r} has a second text, {record.text_pair[:40]!r}, "
            f"but the model was trained on single texts; remove it{single_advice}"
        )
    return record


def count_unknown_labels(
    records: Iterable[TextRecord], labels: Sequence[str], warn: Callable[[str], object]
) -> Iterator[TextRecord]:
    """Yield the records, and warn at the end of labels that the model does not know.

    Prediction ignores every label.
    """
    total = unknown = 0
    example = ""
    try:
        for record in records:
            total += 1
            if record.label is not None and record.label not in labels:
                unknown += 1
                example = example or f"{record.where}: {record.label[:40]!r}"
            yield record
    finally:
        if unknown:
            warn(
                f"{unknown} of {total} records have a label that the model does not know "
                f"({example}); labels are not needed and are ignored"
            )
