"""A JSON text that is decoded value by value while it is read, so that it is never held as a whole.

    text      [{"a": 1}, {"a": 2}, ...         {"data": [{...}, {...}, ...], "version": "2"}
    walk      for _ in text.items():           for key in text.members():
                  text.value()                     text.value(), or text.items()

`items` and `members` come to each value of an array or object; the caller takes it, as a whole with
`value`, or in parts again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

BLANKS = re.compile(r"[ \t\n\r]*")
MIN_READ = 2**16  # characters
LONGEST_WORD = 16  # more than the characters of -Infinity or \ud83d\ude00 that may be cut off
SHOWN = 40  # characters of a line in an error


class JsonError(ValueError):
    """The text is not JSON.  line: of the error, from 1; shown: the beginning of this line."""

    def __init__(self, reason: str, line: int, shown: str):
        super().__init__(reason, line, shown)
        self.reason, self.line, self.shown = reason, line, shown


class JsonText:
    """A position in a JSON text.  line: the number of the line there."""

    def __init__(
        self,
        pieces: Iterable[str],
        max_value: int,
        line: int = 1,
        decoder: json.JSONDecoder | None = None,
    ):
        """pieces: of the text; their ends may be anywhere.

        max_value: characters of a value, which is held in memory; a longer one is an error.
        line: of the beginning of the text.
        """
        self.line = line
        self._pieces, self._max_value = iter(pieces), max_value
        self._decoder = decoder or json.JSONDecoder()
        self._text, self._position = "", 0  # what is held; what was decoded of it
        self._line_start = ""  # what was read of the line before `_text`, for errors

    def peek(self) -> str:
        """The next character that is not blank; "" at the end of the text."""
        while True:
            self._move_to(BLANKS.match(self._text, self._position).end())
            if self._position < len(self._text) or not self._read():
                return self._text[self._position : self._position + 1]

    def value(self) -> Any:
        """Decode the value here, and move behind it; `JsonError` if it is not JSON."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
                # Near the end a number may continue: of 1.5e3 there may be 1 or 1.5e so far.
                if end < len(self._text) - LONGEST_WORD or not self._read():
                    self._move_to(end)
                    return value
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - LONGEST_WORD or error.msg.startswith("Unterm")
                behind = error.pos - self._position
                if not cut or not self._read():
                    raise self._error(error.msg, self._position + behind) from None
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", "a number too large or nested too deeply")
                raise self._error(reason, self._position) from None

    def items(self) -> Iterator[None]:
        """Come to each item of the array here, and move behind the array."""
        yield from self._parts("[", "]", "Expecting value", self.peek)

    def members(self) -> Iterator[str]:
        """The key of each member of the object here, whose value comes next."""
        yield from self._parts(
            "{", "}", "Expecting property name enclosed in double quotes", self._key
        )

    def end(self) -> None:
        """`JsonError` if anything follows."""
        if self.peek():
            raise self._error("Extra data", self._position)

    def _parts(self, opening: str, closing: str, expected: str, begin: Any) -> Iterator[Any]:
        self._take(opening, expected)
        closed = self.peek() == closing
        while not closed:
            yield begin()
            closed = self.peek() == closing
            if not closed:
                self._take(",", "Expecting ',' delimiter")
                self.peek()
        self._take(closing, expected)

    def _key(self) -> str:
        if self.peek() != '"':
            expected = "Expecting property name enclosed in double quotes"
            raise self._error(expected, self._position)
        key = self.value()
        self._take(":", "Expecting ':' delimiter")
        return key

    def _take(self, character: str, expected: str) -> None:
        if self.peek() != character:
            raise self._error(expected, self._position)
        self._move_to(self._position + 1)

    def _move_to(self, position: int) -> None:
        self.line += self._text.count("\n", self._position, position)
        self._position = position

    def _read(self) -> bool:
        """Hold at least twice as much of what follows; whether there was more."""
        held = self._text[self._position :]
        if len(held) > self._max_value:
            reason = f"a value of more than {self._max_value:,} characters"
            raise self._error(reason, self._position)
        parts, size = [held], 0
        for piece in self._pieces:
            parts.append(piece)
            size += len(piece)
            if size >= max(len(held), MIN_READ):
                break
        if not size:
            return False
        before = self._text[: self._position]
        begin = before.rfind("\n") + 1
        self._line_start = (before[begin:] if begin else self._line_start + before)[: 2 * SHOWN]
        self._text, self._position = "".join(parts), 0
        return True

    def _error(self, reason: str, position: int) -> JsonError:
        line = self.line + self._text.count("\n", self._position, position)
        begin = self._text.rfind("\n", 0, position) + 1
        end = self._text.find("\n", position)
        shown = self._text[begin : end if end >= 0 else None][: 2 * SHOWN]
        if not begin:
            shown = self._line_start + shown
        return JsonError(reason, line, shown.strip()[:SHOWN])
