"""Files with a tag for each word -> records in IOB2; errors name the file and the line.

    json       {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}, one object a line
    columns    separated by blanks or tabs, one word a line, a blank line after each sentence:

                   # a comment                              also "#begin ...", "#end ...", "#id 7"
                   -DOCSTART- -X- O O        begins a document

                   EU      NNP  I-NP  I-ORG
                   rejects VBZ  I-VP  O
    text       in prediction only: a text a line, or in JSON {"text": "EU rejects ..."}

The content tells them apart, whatever the file is called (`kind_of_file`).

The word is in the first column and the tag in the last, unless `token_column` and `tag_column`
say otherwise: a file of OntoNotes (CoNLL-2012) has them in columns 3 and 10, the tags in brackets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from minift.data.lines import MAX_LINE_BYTES, read_lines
from minift.data.read import checked
from minift.data.rows import begins_json, read_jsonl
from minift.data.streams import check_length, preview
from minift.data.tags import BRACKETS, TagError, detect_scheme, parse, to_iob2
from minift.errors import UserError, location

DOCSTART = "-DOCSTART-"
# How a comment may begin; "# O" and "# 's" are words if the line is complete (`_is_comment`).
COMMENT = re.compile(r"#(\s|begin\s|end\s|\w+\s+(\d+\s*$|=))")
DUMMY_TAGS = ("_", "-", "?", "-1")  # of test files, whose tags are not known
Split: TypeAlias = Callable[[str], Sequence[tuple[int, int]]]  # text -> the words' (start, end)
PREVIEW = 1000  # lines by which a file is recognised


@dataclass(frozen=True)
class TagRecord:
    """The words of a sentence and their tags in IOB2; tags: None if unknown.

    id: number of the record in its split, from 0.
    where: "file, line N" of its first word.
    original, spans: the text that was split into words, and (start, end) of each word in it; None
        if the file holds words, whose text is the words joined by blanks.
    scheme: the tagging scheme of the file; not part of `repr`, from which a run's digest of the
        data is made, because it does not change the tags.
    extra: the other fields of a JSON object.
    """

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    where: str = ""
    original: str | None = None
    spans: tuple[tuple[int, int], ...] | None = None
    scheme: str = field(default="", repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def text(self) -> str:
        return " ".join(self.words) if self.original is None else self.original

    @cached_property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """(start, end) of each word in `text`, in characters."""
        if self.spans is not None:
            return self.spans
        found, start = [], 0
        for word in self.words:
            found.append((start, start + len(word)))
            start += len(word) + 1
        return tuple(found)


class Sentence(NamedTuple):
    """A sentence as the file has it.

    lines: the line of each word, or one line for all.
    text: in place of words, a raw text.
    """

    lines: list[int]
    words: list[str]
    tags: list[str] | None
    extra: Mapping[str, Any] = {}
    text: str | None = None


def kind_of_file(
    path: Path, token_column: int = 0, tag_column: int = -1
) -> Literal["json", "columns", "text"]:
    """Recognise a file by its first lines; its ending decides only where they do not.

    json: the first line begins an object.
    columns: each of several lines, but for comments, has a tag in its column, or one of the dummies
        that test files have there, and not all are dummies.  A short line counts by its last field.
    Else by the ending: json for .json and .jsonl, text for .txt, columns for all others; a .csv is
    an error.
    """
    if begins_json(path):
        return "json"
    required = _required((token_column, tag_column))
    found = []
    for line in islice((line for _, line in read_lines(path)), PREVIEW):
        fields = _fields(line)
        if fields and fields[0] != DOCSTART and not COMMENT.match(line):
            tag = fields[tag_column if len(fields) >= required else -1]
            found.append(tag if len(fields) > 1 and _is_tag(tag) else None)
            if found[-1] is None:
                break
    if len(found) > 1 and None not in found and not set(found) <= set(DUMMY_TAGS):
        return "columns"
    ending = os.path.splitext(path.name.lower().removesuffix(".gz"))[1]
    if ending == ".csv":
        raise UserError(
            f"{path}: words and tags are not read from CSV; separate the columns by blanks or "
            "tabs, one word a line, or give a .jsonl file"
        )
    endings: dict[str, Any] = {".json": "json", ".jsonl": "json", ".txt": "text"}
    return endings.get(ending, "columns")


def _required(columns: Iterable[int]) -> int:
    """How many columns a line needs for it to have these."""
    return max(c + 1 if c >= 0 else -c for c in columns)


def _is_tag(text: str) -> bool:
    try:
        return text in DUMMY_TAGS or parse(text) is not None
    except ValueError:
        return bool(text) and BRACKETS.fullmatch(text) is not None


def read_tagged(
    path: str | os.PathLike,
    *,
    token_column: int = 0,
    tag_column: int = -1,
    scheme: str = "auto",
) -> list[TagRecord]:
    """The sentences of a file, their tags converted to IOB2.

    Columns count from 0, negative ones from the right.  `scheme="auto"` detects the scheme from all
    tags of the file.

    Raises `UserError`, with file and line, for anything else.
    """
    path = Path(path)
    json = kind_of_file(path, token_column, tag_column) == "json"
    sentences = list(_sentences(path, json, token_column, tag_column, True))
    if not json:
        _refuse_header(path, sentences)
    try:
        found = detect_scheme(s.tags for s in sentences) if scheme == "auto" else scheme
    except TagError as error:
        line = _line(sentences[error.sentence], error.index)
        remedy = "" if json else ", or choose the column of the tags with --tag-column"
        raise UserError(f"{location(path, line)}: {error}{remedy}") from None
    records = []
    for sentence in sentences:
        try:
            tags = tuple(to_iob2(sentence.tags, found))
        except TagError as error:
            raise UserError(f"{location(path, _line(sentence, error.index))}: {error}") from None
        records.append(_record(path, len(records), sentence, tags, found))
    return records


def _refuse_header(path: Path, sentences: Sequence[Sentence]) -> None:
    """`UserError` if the first tag is the name of its column: no tag, where all others are tags."""
    tags = [tag for sentence in sentences for tag in sentence.tags or ()]
    if len(tags) > 1 and not _is_tag(tags[0]) and all(map(_is_tag, set(tags[1:]))):
        raise UserError(
            f"{location(path, sentences[0].lines[0])}: looks like a header, because {tags[0]!r} "
            "is no tag and all others are; remove the line, or correct the tag"
        )


def read_words(
    path: Path,
    split: Split,
    *,
    token_column: int = 0,
    tag_column: int = -1,
    scheme: str = "auto",
    has_columns: bool = False,
) -> Iterator[TagRecord]:
    """Yield the sentences or texts of a file for prediction; tags that cannot be read are None.

    split: text -> (start, end) of each of its words.
    has_columns: the file is known to have columns, whatever it looks like.
    The first part of the file (`preview`) decides what its first line is, and the scheme.
    """
    kind = kind_of_file(path, token_column, tag_column)
    if has_columns and kind == "text":
        kind = "columns"
    if kind == "text":
        yield from untagged((line for _, line in read_lines(path)), split)
        return
    first, sentences = preview(_sentences(path, kind == "json", token_column, tag_column, False))
    if kind == "columns":
        _refuse_header(path, first)
    try:
        tagged = (sentence.tags for sentence in first if sentence.tags is not None)
        found = detect_scheme(tagged) if scheme == "auto" else scheme
    except TagError:
        found = ""
    for i, sentence in enumerate(sentences):
        if sentence.text is not None:
            where = location(path, sentence.lines[0])
            yield replace(_untagged(i, sentence.text, where, split), extra=sentence.extra)
            continue
        try:
            tags = tuple(to_iob2(sentence.tags, found)) if found and sentence.tags else None
        except TagError:
            tags = None
        yield _record(path, i, sentence, tags, found)


def _sentences(
    path: Path, json: bool, token_column: int, tag_column: int, require_tags: bool
) -> Iterator[Sentence]:
    """Yield the sentences of a file; `UserError` if it holds none."""
    if json:
        sentences = _json_sentences(path, require_tags)
    else:
        sentences = _column_sentences(path, token_column, tag_column, require_tags)
    empty = True
    for sentence in sentences:
        yield sentence
        empty = False
    if empty:
        raise UserError(f"{path}: holds no sentence; give a file with at least one")


def _record(
    path: Path, number: int, sentence: Sentence, tags: tuple[str, ...] | None, scheme: str
) -> TagRecord:
    where, words = location(path, sentence.lines[0]), tuple(sentence.words)
    return TagRecord(str(number), words, tags, where, scheme=scheme, extra=sentence.extra)


def _line(sentence: Sentence, index: int) -> int:
    return sentence.lines[min(index, len(sentence.lines) - 1)]


def _column_sentences(
    path: Path, token_column: int, tag_column: int, require_tags: bool
) -> Iterator[Sentence]:
    # With both columns counted from the left, the number of columns may vary (as in OntoNotes).
    fixed_width = min(token_column, tag_column) < 0
    # Comments often come first, so the first line without # gives the number of columns.
    rows = ((line, _fields(line)) for _, line in read_lines(path))
    words_only = (f for line, f in rows if f and f[0] != DOCSTART and line[0] != "#")
    usual_width = len(next(words_only, ()))
    required = _required((token_column, tag_column))
    width = first = size = 0
    lines: list[int] = []
    words: list[str] = []
    tags: list[str] = []

    def end_sentence() -> Iterator[Sentence]:
        if words:
            whole = len(tags) == len(words)
            yield Sentence(list(lines), list(words), list(tags) if whole else None)
        for part in (lines, words, tags):
            part.clear()

    for number, line in read_lines(path):
        fields = _fields(line)
        if not fields or fields[0] == DOCSTART:
            yield from end_sentence()
            size = 0
            continue
        size += len(line)
        if size > MAX_LINE_BYTES:
            raise UserError(
                f"{location(path, number)}: the sentence has more than {MAX_LINE_BYTES:,} "
                "characters; separate sentences by blank lines"
            )
        if _is_comment(line, fields, usual_width, tag_column):
            continue
        if not require_tags and len(fields) == 1:  # the word, whatever its column elsewhere
            lines.append(number)
            words.append(fields[0])
            continue
        if len(fields) < max(required, 2):
            raise UserError(
                f"{location(path, number)}: {line.strip()[:60]!r} has {len(fields)} column"
                f"{'s' * (len(fields) > 1)}, which is too few for a word in column {token_column} "
                f"and a tag in column {tag_column}; complete the line, or name the columns with "
                "--token-column and --tag-column"
            )
        if not width:
            width, first = len(fields), number
        if fixed_width and len(fields) != width:
            raise UserError(
                f"{location(path, number)}: the number of columns is {len(fields)}, on line "
                f"{first} it is {width}; complete the line, or separate sentences by a blank line"
            )
        lines.append(number)
        words.append(fields[token_column])
        tags.append(fields[tag_column])
    yield from end_sentence()


def _fields(line: str) -> list[str]:
    """The columns of a line, separated by tabs if it has any, else by blanks.

    >>> _fields("New York\\tB-LOC"), _fields("York NNP  I-LOC")
    (['New York', 'B-LOC'], ['York', 'NNP', 'I-LOC'])
    """
    line = line.rstrip(" \t")
    return line.split("\t") if "\t" in line else [part for part in line.split(" ") if part]


def _is_comment(line: str, fields: Sequence[str], width: int, tag_column: int) -> bool:
    """Whether a line that begins with # is a comment, rather than the word # or a #hashtag."""
    if not COMMENT.match(line):
        return False
    if len(fields) != (width or len(fields)) or not -len(fields) <= tag_column < len(fields):
        return True
    return not _is_tag(fields[tag_column])


def _json_sentences(path: Path, require_tags: bool) -> Iterator[Sentence]:
    for row in read_jsonl(path, {"tokens": "tokens", "tags": "tags"}):
        where = location(path, row.line)
        text = row.extra.get("text")
        if not require_tags and row.fields.get("tokens") is None and isinstance(text, str):
            extra = {name: value for name, value in row.extra.items() if name != "text"}
            yield Sentence([row.line], [], None, extra, checked(text, "text", where))
            continue
        words = _strings(row.fields, "tokens", where)
        if words is None or (require_tags and row.fields.get("tags") is None):
            missing = "tokens" if words is None else "tags"
            found = ", ".join(row.found)[:80]
            raise UserError(f"{where}: has no {missing!r}, only {found!r}; add it")
        if not words and require_tags:
            raise UserError(f"{where}: 'tokens' is empty; fill it in or remove the record")
        try:
            tags = _strings(row.fields, "tags", where)
            if tags is not None and len(tags) != len(words):
                raise UserError(
                    f"{where}: has {len(words)} tokens but {len(tags)} tags; give one for each"
                )
        except UserError:
            if require_tags:
                raise
            tags = None
        yield Sentence([row.line], words, tags, row.extra)


def _strings(fields: dict[str, Any], name: str, where: str) -> list[str] | None:
    values = fields.get(name)
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: {name!r} must be a list of strings, not {values!r:.60}")
    return [checked(value, name, where) for value in values]


def untagged(texts: Iterable[str], split: Split) -> Iterator[TagRecord]:
    """Yield records without tags.  split: text -> (start, end) of each of its words."""
    for i, text in enumerate(texts):
        yield _untagged(i, text, f"input {i + 1}", split)


def _untagged(number: int, text: str, where: str, split: Split) -> TagRecord:
    check_length(len(text), where)
    spans = tuple(split(text))
    words = tuple(text[start:end] for start, end in spans)
    return TagRecord(str(number), words, None, where, text, spans)
