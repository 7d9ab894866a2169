"""Errors that are the user's to mend: what is wrong, where, and what to do about it."""

from __future__ import annotations

import os
import re

# Controls but tab and line feed, and what turns the direction of writing around.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class InputError(Exception):
    """Bad input: a file, an option or a checkpoint that cannot be used as it is.

    The message is one line that names the file (and line), the value and the remedy.  A script
    shows it as its last line on stderr and exits with status 2; see `train.options.run_script`.
    """


class NotFinite(InputError):
    """A loss that is no number any more: of many runs this one has failed, the others go on."""


def at(path: str | os.PathLike, line: int | None = None) -> str:
    """The place an error speaks of.

    >>> at("train.tsv", 12)
    'train.tsv, line 12'
    """
    return f"{os.fspath(path)}, line {line}" if line is not None else os.fspath(path)


def visible(text: str) -> str:
    r"""A text that came from data, as a terminal may have it: what would steer it is spelled out.

    >>> print(visible("good\x1b[2Jbad"))
    good\x1b[2Jbad
    """
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
