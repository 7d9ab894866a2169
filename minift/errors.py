"""Errors that a user can correct: bad files, options and checkpoints."""

from __future__ import annotations

import os
import re

# The characters that a terminal obeys, or that hide or reorder text.  Left as they are: the joiners
# of emoji and Persian (U+200C, U+200D), which ordinary text needs, and the marks of Hebrew and
# Arabic (U+200E, U+200F, U+061C), which override no letter's direction.
CONTROL_CHARS = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls (C0, DEL, C1), except tab and line feed
    "\u2028\u2029"  # separators of lines and paragraphs
    "\u202a-\u202e\u2066-\u206f"  # embeddings, overrides and isolates of the writing direction
    "\ud800-\udfff"  # half of a pair: a byte of a file name that is not UTF-8
    "\ufff9-\ufffb"  # annotations
    "\U000e0000-\U000e007f"  # tags: text that is not seen
    "]"
)

LINE_ENDS = re.compile("[\t\n]")


class UserError(Exception):
    """An error that the user can correct, such as a bad file or option, or a full disk.

    The message is one line that names the file (and line), the value and the remedy.  A script
    prints it as its last line on stderr and exits with status 2; see `training.cli.run_script`.
    """


class NonFiniteError(UserError):
    """A loss that is NaN or infinite.  A sweep counts the run as failed and continues."""


def location(path: str | os.PathLike, line: int | None = None) -> str:
    """A file, and a line in it, as error messages name them.

    >>> location("train.tsv", 12)
    'train.tsv, line 12'
    """
    name = escape_fields(os.fspath(path))
    return f"{name}, line {line}" if line is not None else name


def escape_controls(text: str) -> str:
    r"""Replace control characters by escape sequences, so that data cannot control a terminal.

    >>> print(escape_controls("good\x1b[2Jbad"))
    good\x1b[2Jbad
    """
    return CONTROL_CHARS.sub(_escaped, text)


def escape_fields(text: str) -> str:
    r"""As `escape_controls`, and tabs and line ends too: one field of one printed line.

    >>> print(escape_fields("very\ngood\tand so on"))
    very\ngood\tand so on
    """
    return LINE_ENDS.sub(_escaped, escape_controls(text))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
