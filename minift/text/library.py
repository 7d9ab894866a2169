"""Errors of the Rust library `tokenizers`, as one line for people.

The library reports an error as a bare `Exception`, and a failed assertion of its own (a panic) as a
`PanicException`, which is no `Exception`, so that `except Exception` does not catch it.  Rust has
then written lines of its own to stderr already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
