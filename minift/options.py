"""How an options dataclass and a config are made: fields with a help sentence, and their checks.

    epochs: int = option(4, "Passes over the training data.", common=True)

Every field becomes a flag (training/cli.py); the checks run when the dataclass is constructed.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST = 2**31 - 1  # of an integer option without another upper bound; torch overflows above


def option(default: Any, sentence: str, *, common: bool = False, flag: bool = True) -> Any:
    """A field of an options dataclass, with its sentence for the help.

    common: --help shows it; all others appear in --help-all only.
    flag: False for a field that only Python code sets.
    """
    metadata = {"help": sentence, "common": common, "flag": flag}
    return dataclasses.field(default=default, metadata=metadata)


def convert_paths(options: object) -> None:
    """Turn the strings in fields for paths into `Path`s, in place; a tuple may be one path.

    Called by `__post_init__`, because people write strings in Python.
    """
    for name, hint in get_type_hints(type(options)).items():
        value = getattr(options, name)
        if hint == tuple[Path, ...]:
            value = (value,) if isinstance(value, str | Path) else value
            object.__setattr__(options, name, tuple(map(Path, value)))
        elif hint in (Path, Path | None) and isinstance(value, str):
            object.__setattr__(options, name, Path(value))


def flag_of(name: str) -> str:
    """The flag of an option field.

    >>> flag_of("batch_size")
    '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


def check_range(options: object, name: str, low: float, high: float | None = None) -> None:
    """Raise `ValueError` if an option, or one of its values, is not a number within its bounds.

    high: None: any finite number; of integers those up to `LARGEST`.  None is allowed as the value.
    """
    given = getattr(options, name)
    several = isinstance(given, tuple | list)
    for value in given if several else (given,):
        if value is None:
            continue
        problem = f"{flag_of(name)} {'has' if several else 'is'} {value!r}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{problem}; it must be a number")
        largest = LARGEST if isinstance(value, int) else sys.float_info.max
        # An upper bound above this is a technical one, which concerns few people.
        if value < low and (high is None or high > 10_000):
            raise ValueError(f"{problem}; it must be at least {low}")
        if not low <= value <= (largest if high is None else high):  # nan and inf too
            bounds = f"from {low} to {high or largest}"
            if high is None and isinstance(value, float):
                bounds = f"a finite number of at least {low}"
            raise ValueError(f"{problem}; it must be {bounds}")


def require(config: object, name: str, allowed: Sequence[Any]) -> None:
    """Raise `ValueError` if a field of a config has none of the allowed values."""
    value = getattr(config, name)
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


def require_number(config: object, name: str, low: float, high: float, kind: type = int) -> None:
    """Raise `ValueError` if a field is not a number within its bounds.

    The upper bounds refuse the absurd values of a damaged file before memory is allocated.
    """
    value = getattr(config, name)
    numeric = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not numeric or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a number from {low} to {high}")


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raise `ValueError` unless a value that was read from a file has the type of an annotation.

    hint: bool, int, float, str, None, a `Literal`, or a union of these.

    >>> check_type("truncation", "middle", Literal["head", "windows"])
    Traceback (most recent call last):
    ValueError: truncation is 'middle'; it must be 'head' or 'windows'
    """
    allowed: list[str] = []
    for kind in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        if get_origin(kind) is Literal:
            allowed += map(repr, get_args(kind))
            if isinstance(value, str) and value in get_args(kind):
                return
        elif kind is types.NoneType:
            allowed.append("null")
            if value is None:
                return
        else:
            allowed.append(f"of type {kind.__name__}")
            numeric = isinstance(value, (int, kind)) and not isinstance(value, bool)
            if numeric if kind in (int, float) else isinstance(value, kind):
                return
    raise ValueError(f"{name} is {value!r:.80}; it must be {' or '.join(allowed)}")
