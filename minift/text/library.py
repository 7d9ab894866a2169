"""Errors of the Rust library `tokenizers`, as one line for people.

The library reports an error as a bare `Exception`, and a failed assertion of its own (a panic) as a
`PanicException`, which is no `Exception`, so that `except Exception` does not catch it.  Rust has
then written lines of its own to stderr already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minift.errors import UserError

MAX_CHARS = 200  # of the library's message


@contextmanager
def library_errors(problem: str, remedy: str) -> Iterator[None]:
    """Turn an error or a panic of the library into `UserError`: "problem (its message); remedy"."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # KeyboardInterrupt, SystemExit
        message = " ".join(str(error).split())[:MAX_CHARS]
        raise UserError(f"{problem} ({message}); {remedy}") from None


def check_text(text: Any, index: int, words: bool) -> None:
    """Raise an error that names the text and the reason, where Rust's error would name neither."""
    if words and isinstance(text, str):
        raise TypeError(f"text {index} is a str; with is_split_into_words give lists of words")
    for part in text if words else [text]:
        if not isinstance(part, str):
            raise TypeError(f"text {index} is or holds {type(part).__name__} {part!r}; give str")
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"text {index}: its character {error.start} is half of a surrogate pair "
                f"(U+{ord(part[error.start]):04X}), which is not text; remove it"
            ) from None
