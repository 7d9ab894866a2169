"""SQuAD files -> records of one question each; errors name the article and the question.

    {"version": "v2.0", "data": [                                       v1.1 is the same
      {"title": "Normans", "paragraphs": [                              without "is_impossible"
        {"context": "The Normans were ... Denmark, Iceland and Norway ...", "qas": [
          {"id": "q1", "question": "Where did they come from?", "is_impossible": false,
           "answers": [{"text": "Denmark", "answer_start": 94}]},
          {"id": "q2", "question": "Who was king?", "is_impossible": true, "answers": []}]}]}]}

`answer_start` counts the characters (Unicode code points) of the context before the answer.  Files
of other tools count UTF-16 units or bytes, or were edited later.  So an answer that is not at
`answer_start` is moved, and counted: to its place in one of these units, or else to its nearest
occurrence within `MAX_SHIFT` characters.  Any other answer is an error.

Papers: Rajpurkar et al. 2016, "SQuAD" (v1.1); Rajpurkar, Jia and Liang 2018, "Know what you don't
know" (v2.0).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from minift.data.json_text import JsonError, JsonText
from minift.data.lines import read_pieces
from minift.data.read import checked, print_skipped, shown, text_of
from minift.errors import UserError, location

MAX_SHIFT = 64  # characters before and after `answer_start` in which the answer is searched
QUESTION_KEYS = ("id", "question", "answers", "is_impossible", "plausible_answers")
MAX_ARTICLE_CHARACTERS = 500_000_000
LAYOUT = (
    "give SQuAD's layout: "
    '{"data": [{"paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ..., "answers": '
    '[{"text": ..., "answer_start": ...}]}]}]}]}'
)


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


def read_squad(path: str | os.PathLike, **settings: Any) -> list[QuestionRecord]:
    """The questions of a SQuAD file; the settings are those of `squad_records`."""
    return list(squad_records(path, **settings))


def squad_records(
    path: str | os.PathLike, *, require_answers: bool = True, skip_bad: bool = False
) -> Iterator[QuestionRecord]:
    """Yield the questions of a SQuAD file (v1.1 or v2.0, plain or .gz), in order.

    Holds one article at a time.

    With `require_answers=False`, as for prediction, answers that are missing or cannot be used are
    unknown, and a question or a context may be blank.  Raises `UserError`, with the place in the
    file, for anything else.  With `skip_bad=True` a bad question is skipped instead, and the count
    is printed.
    """
    path = Path(path)
    count = 0
    skipped: list[UserError] = []
    for i, article in enumerate(_articles(path)):
        title = _optional_title(article)
        place = f"{location(path)}, article {repr(title) if title else i + 1}"
        for j, paragraph in enumerate(_list(article, "paragraphs", place)):
            where = f"{place}, paragraph {j + 1}"
            for qa in _list(paragraph, "qas", where):
                try:
                    record = _record(qa, paragraph, title, where, require_answers)
                except UserError as error:
                    if not skip_bad:
                        raise
                    skipped.append(error)
                    continue
                yield record
                count += 1
    print_skipped(skipped, count + len(skipped))
    if not count:
        raise UserError(f"{path}: holds no question; give a file with at least one")


def with_own_ids(records: Sequence[QuestionRecord]) -> list[QuestionRecord]:
    """The records, each with an id of its own: files that belong together may share ids.

    >>> same = [QuestionRecord("7", "?", "a", ()), QuestionRecord("7", "?", "a b", ())]
    >>> [record.id for record in with_own_ids(same)]
    ['7', '7 (2)']
    """
    found: dict[str, QuestionRecord] = {}
    for record in records:
        identity, count = record.id, 1
        while identity in found:
            count += 1
            identity = f"{record.id} ({count})"
        found[identity] = replace(record, id=identity)
    return list(found.values())


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


def _record(
    qa: Any, paragraph: Any, title: str, where: str, require_answers: bool
) -> QuestionRecord:
    context = _string(paragraph, "context", where, require_answers)
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
    try:
        answers, moved = _answers(qa, context, where)
    except UserError:
        if require_answers:
            raise
        answers, moved = None, 0
    extra = {name: value for name, value in qa.items() if name not in QUESTION_KEYS}
    return QuestionRecord(identity, question, context, answers, where, moved, title, extra)


def _answers(qa: dict[str, Any], context: str, where: str) -> tuple[tuple[Answer, ...], int]:
    """The answers of a question, and how many of them were moved."""
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
    return tuple(answer for answer, _ in found), sum(moved for _, moved in found)


def _answer(item: Any, context: str, where: str) -> tuple[Answer, bool]:
    """An answer at its place in the context, and whether it had to be moved there."""
    if isinstance(item, dict) and isinstance(item.get("text"), str) and not item["text"].strip():
        raise UserError(
            f"{where}: 'text' is empty; fill it in, or write \"answers\": [] and "
            '"is_impossible": true if there is no answer'
        )
    text = _string(item, "text", where)
    start = item.get("answer_start")
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise UserError(
            f"{where}: 'answer_start' is {shown(start)}; it must be the number of characters "
            "before the answer"
        )
    if context.startswith(text, start):
        return Answer(text, start), False
    place = _find(text, start, context)
    if place is None:
        raise UserError(
            f"{where}: the answer {text!r:.60} is not at character {start} of its context "
            f"({context[start : start + 20]!r}) and does not occur nearby; correct 'answer_start' "
            "or the text"
        )
    return Answer(text, place), True


def _find(text: str, start: int, context: str) -> int | None:
    """The place of an answer that is not at character `start`; None if it does not occur nearby.

    The place may be given in UTF-16 units, as JavaScript and Java count, or in bytes of UTF-8.

    >>> _find("Bo", 5, "🚀🚀 Bo Bo"), _find("Bo", 5, "x Bo, Bo")
    (3, 6)
    """
    for encoding, size in (("utf-16-le", 2), ("utf-8", 1)):
        units = context.encode(encoding)
        if units.startswith(text.encode(encoding), start * size):
            return len(units[: start * size].decode(encoding))
    places = range(max(0, start - MAX_SHIFT), start + MAX_SHIFT + 1)
    found = [place for place in places if context.startswith(text, place)]
    return min(found, key=lambda place: abs(place - start), default=None)


def _articles(path: Path) -> Iterator[Any]:
    """Yield the items of "data", in the object that the file holds."""
    text = JsonText(read_pieces(path), MAX_ARTICLE_CHARACTERS)
    found = False
    try:
        if text.peek() != "{":
            _list(text.value(), "data", f"{path}")
        for key in text.members():
            if key != "data":
                text.value()
                continue
            if found:
                raise UserError(f"{location(path, text.line)}: a second 'data'; join the two lists")
            found = True
            if text.peek() != "[":
                _list({"data": text.value()}, "data", f"{path}")
            for _ in text.items():
                yield text.value()
        text.end()
    except JsonError as error:
        raise UserError(
            f"{location(path, error.line)}: not valid JSON ({error.reason}); {LAYOUT}"
        ) from None
    if not found:
        _list({}, "data", f"{path}")


def _optional_title(article: Any) -> str:
    title = article.get("title", "") if isinstance(article, dict) else ""
    return title[:80] if isinstance(title, str) else ""


def _list(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {shown(value)} is not an object with {name!r}; {LAYOUT}")
    found = value.get(name)
    if not isinstance(found, list):
        raise UserError(f"{where}: {name!r} is {shown(found)}; it must be a list; {LAYOUT}")
    return found


def _string(value: Any, name: str, where: str, required: bool = True) -> str:
    """The text of a field.  required: it may not be blank."""
    text = value.get(name) if isinstance(value, dict) else None
    if not required and isinstance(text, str) and not text.strip():
        return text
    return text_of(text, name, where)
