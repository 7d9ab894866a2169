"""SQuAD files -> records of one question each; errors name the article and the question.

    {"version": "v2.0", "data": [                                       v1.1 is the same
      {"title": "Normans", "paragraphs": [                              without "is_impossible"
        {"context": "The Normans were ... Denmark, Iceland and Norway ...", "qas": [
          {"id": "q1", "question": "Where did they come from?", "is_impossible": false,
           "answers": [{"text": "Denmark", "answer_start": 94}]},
          {"id": "q2", "question": "Who was king?", "is_impossible": true, "answers": []}]}]}]}

`answer_start` counts the characters (Unicode code points) of the context before the answer.  Files
of other tools count bytes or UTF-16 units, or were edited later.  So an answer that is not at
`answer_start`, but occurs exactly once within `MAX_SHIFT` characters of it, is moved there and
counted.  Any other answer is an error.

Papers: Rajpurkar et al. 2016, "SQuAD" (v1.1); Rajpurkar, Jia and Liang 2018, "Know what you don't
know" (v2.0).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from minift.data.read import checked, shown, text_of
from minift.data.rows import read_lines
from minift.errors import UserError, location

MAX_SHIFT = 64  # characters before and after `answer_start` in which the answer is searched
QUESTION_KEYS = ("id", "question", "answers", "is_impossible", "plausible_answers")
MAX_LINE_BYTES = 2**31 - 1  # larger than that of rows.py, because the whole file is often one line


class Answer(NamedTuple):
    """The text of an answer and the number of characters before it in its context."""

    text: str
    start: int


@dataclass(frozen=True)
class QuestionRecord:
    """A question about a context.

    answers: the reference answers; empty if the context has none; None if they are unknown.
    where: "file, article 'T', paragraph N, question 'ID'".
    moved: how many of the answers were not at their `answer_start`.
    title: of the article.
    extra: the other fields of the question.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] | None
    where: str = ""
    moved: int = 0
    title: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_blank(self) -> bool:
        """Nothing to ask or to read; only prediction reads such a record."""
        return not self.question.strip() or not self.context.strip()


def read_squad(path: str | os.PathLike, *, require_answers: bool = True) -> list[QuestionRecord]:
    """The questions of a SQuAD file (v1.1 or v2.0, plain or .gz), in order.

    With `require_answers=False`, for prediction, answers that cannot be used are unknown, and a
    question or a context may be blank.
    Raises `UserError`, with the place in the file, for anything else.
    """
    path = Path(path)
    records: list[QuestionRecord] = []
    for i, article in enumerate(_list(_json(path), "data", f"{path}")):
        title = _optional_title(article)
        place = f"{path}, article {title!r}" if title else f"{path}, article {i + 1}"
        for j, paragraph in enumerate(_list(article, "paragraphs", place)):
            where = f"{place}, paragraph {j + 1}"
            context = _string(paragraph, "context", where, require_answers)
            for qa in _list(paragraph, "qas", where):
                records.append(_record(qa, context, title, where, require_answers))
    if not records:
        raise UserError(f"{path}: holds no question; give a file with at least one")
    check_ids(records)
    return records


def check_ids(records: Sequence[QuestionRecord]) -> None:
    """Raise `UserError` for two questions with one id, because predictions are stored by id."""
    seen: dict[str, str] = {}
    for record in records:
        if record.id in seen:
            raise UserError(
                f"{record.where}: the id {record.id!r} is also that of {seen[record.id]}; give "
                "every question its own"
            )
        seen[record.id] = record.where


def as_squad(records: Sequence[QuestionRecord]) -> list[dict[str, Any]]:
    """Records as the `data` list of a SQuAD file, one paragraph each, for `metrics.squad`.

    v2.0 if any question has no answer, else v1.1.
    """
    version_2 = any(not record.answers for record in records)
    paragraphs = []
    for record in records:
        answers = [{"text": a.text, "answer_start": a.start} for a in record.answers or ()]
        qa: dict[str, Any] = {"id": record.id, "question": record.question, "answers": answers}
        if version_2:
            qa["is_impossible"] = not answers
        paragraphs.append({"context": record.context, "qas": [qa]})
    return [{"title": "", "paragraphs": paragraphs}]


def unanswered(pairs: Iterator[tuple[str, str]]) -> Iterator[QuestionRecord]:
    """Records without answers, for prediction, from (question, context) pairs; also blank ones."""
    for i, (question, context) in enumerate(pairs):
        yield QuestionRecord(str(i), question, context, None, f"input {i + 1}")


def _record(qa: Any, context: str, title: str, where: str, require_answers: bool) -> QuestionRecord:
    if not isinstance(qa, dict):
        raise UserError(f"{where}: {shown(qa)} is not a question; write an object")
    identity = qa.get("id")
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise UserError(
            f"{where}: the id {shown(identity)} is not valid; give every question its own"
        )
    where = f"{where}, question {str(identity)!r}"
    identity = checked(str(identity), "id", where)
    question = _string(qa, "question", where, require_answers)
    extra = {name: value for name, value in qa.items() if name not in QUESTION_KEYS}
    if not require_answers:
        answers = _usable_answers(qa, context)
        return QuestionRecord(identity, question, context, answers, where, 0, title, extra)
    impossible = qa.get("is_impossible", False)
    if not isinstance(impossible, bool):
        raise UserError(f"{where}: 'is_impossible' is {shown(impossible)}; it must be a boolean")
    found = [_answer(item, context, where) for item in _list(qa, "answers", where)]
    if impossible and found:
        raise UserError(
            f"{where}: 'is_impossible' is true, but there is an answer {found[0][0].text!r:.60}; "
            "remove one of them"
        )
    if not found and "is_impossible" not in qa:
        raise UserError(
            f"{where}: 'answers' is empty; add one, or 'is_impossible': true if there is none"
        )
    if not found and not impossible:
        raise UserError(
            f"{where}: 'answers' is empty, but 'is_impossible' is false; add an answer, or make it "
            "true"
        )
    answers, moved = tuple(a for a, _ in found), sum(moved for _, moved in found)
    return QuestionRecord(identity, question, context, answers, where, moved, title, extra)


def _usable_answers(qa: dict[str, Any], context: str) -> tuple[Answer, ...] | None:
    """The answers of a question that is to be predicted; None if the file does not know them."""
    try:
        answers = tuple(_answer(item, context, "")[0] for item in _list(qa, "answers", ""))
    except UserError:
        return None
    return answers if answers or qa.get("is_impossible") is True else None


def _answer(item: Any, context: str, where: str) -> tuple[Answer, bool]:
    """An answer at its place in the context, and whether it had to be moved there."""
    text = _string(item, "text", where)
    start = item.get("answer_start")
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise UserError(
            f"{where}: 'answer_start' is {shown(start)}; it must be the number of characters "
            "before the answer"
        )
    if context.startswith(text, start):
        return Answer(text, start), False
    found = _occurrences(text, context[max(0, start - MAX_SHIFT) : start + MAX_SHIFT + len(text)])
    if len(found) == 1:
        return Answer(text, max(0, start - MAX_SHIFT) + found[0]), True
    why = "occurs more than once nearby" if found else "does not occur nearby"
    raise UserError(
        f"{where}: the answer {text!r:.60} is not at character {start} of its context "
        f"({context[start : start + 20]!r}) and {why}; correct 'answer_start' or the text"
    )


def _occurrences(text: str, within: str) -> list[int]:
    """The characters at which a text begins, overlapping occurrences included.

    >>> _occurrences("aa", "aaa")
    [0, 1]
    """
    return [i for i in range(len(within) - len(text) + 1) if within.startswith(text, i)]


def _json(path: Path) -> Any:
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give a file")
    text = "\n".join(line for _, line in read_lines(path, max_line_bytes=MAX_LINE_BYTES))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "a number too large or nested too deeply")
        raise UserError(
            f"{location(path, getattr(error, 'lineno', None))}: not valid JSON ({reason}); give a "
            "SQuAD file"
        ) from None


def _optional_title(article: Any) -> str:
    title = article.get("title", "") if isinstance(article, dict) else ""
    return title[:80] if isinstance(title, str) else ""


def _list(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {shown(value)} is not an object with {name!r}; write one")
    found = value.get(name)
    if not isinstance(found, list):
        raise UserError(
            f"{where}: {name!r} is {shown(found)}; it must be a list, as in SQuAD's format"
        )
    return found


def _string(value: Any, name: str, where: str, required: bool = True) -> str:
    """The text of a field.  required: it may not be blank."""
    text = value.get(name) if isinstance(value, dict) else None
    if not required and isinstance(text, str) and not text.strip():
        return text
    return text_of(text, name, where)
