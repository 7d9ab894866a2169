"""How an options dataclass and a config are made: fields with a help sentence, and their checks.

    epochs: int = option(4, "Passes over the training data.", common=True)

Every field becomes a flag (training/cli.py); the checks run when the dataclass is constructed.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST = 2**31 - 1  # of an integer option without another upper bound; torch overflows above
UNBOUNDED = (-math.inf, math.inf)


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


def bounded(default: Any, low: float, high: float) -> Any:
    """A field of a config that is a number, with its lowest and its highest value.

    The highest ones are far above any model in use.  They refuse the absurd values of a damaged
    file before memory is allocated.
    """
    return dataclasses.field(default=default, metadata={"bounds": (low, high)})


def check_fields(config: object) -> None:
    """Raise `ValueError` if a field of a dataclass has another type, or is out of its bounds."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        bounds = field.metadata.get("bounds", UNBOUNDED)
        check_type(field.name, getattr(config, field.name), hints[field.name], bounds)


def require(config: object, name: str, allowed: Sequence[Any]) -> None:
    """Raise `ValueError` if a field of a config has none of the allowed values."""
    value = getattr(config, name)
    if not is_one_of(value, allowed):
        names = ", ".join(map(repr, allowed))
        raise ValueError(f"{name} is {shorten(value)}; it must be one of {names}")


def require_number(config: object, name: str, low: float, high: float, kind: type = int) -> None:
    """Raise `ValueError` if a field is not a number within its bounds."""
    check_type(name, getattr(config, name), kind, (low, high))


def check_type(name: str, value: Any, hint: Any, bounds: tuple[float, float] = UNBOUNDED) -> None:
    """Raise `ValueError` unless a value that was read from a file has the type of an annotation.

    hint: a class, a `Literal`, a list, tuple or dict of these, or a union.  An int is a float, but
        neither True nor 1.0 is an int.
    bounds: the lowest and the highest value of a number.

    >>> check_type("truncation", "middle", Literal["head", "windows"])
    Traceback (most recent call last):
    ValueError: truncation is 'middle'; it must be 'head' or 'windows'
    >>> check_type("num_beams", 0, int, (1, 100))
    Traceback (most recent call last):
    ValueError: num_beams is 0; it must be a number from 1 to 100
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if not any(_has_type(value, kind, bounds) for kind in kinds):
        allowed = " or ".join(_describe(kind, bounds) for kind in kinds)
        raise ValueError(f"{name} is {shorten(value)}; it must be {allowed}")


def _has_type(value: Any, kind: Any, bounds: tuple[float, float]) -> bool:
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return is_one_of(value, parts)
    if origin in (int, float):
        number = isinstance(value, (int, origin)) and not isinstance(value, bool)
        return number and bounds[0] <= value <= bounds[1]
    if origin is Any:
        return True
    if not isinstance(value, origin):
        return False
    items = value.values() if isinstance(value, Mapping) else value if parts else ()
    part = parts[1 if isinstance(value, Mapping) else 0] if parts else Any
    return all(_has_type(item, part, UNBOUNDED) for item in items)


def _describe(kind: Any, bounds: tuple[float, float]) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if kind is types.NoneType:
        return "null"
    if kind in (int, float) and bounds != UNBOUNDED:
        return f"a number from {bounds[0]} to {bounds[1]}"
    if get_origin(kind) is list:
        return f"a list of {get_args(kind)[0].__name__}"
    if get_origin(kind) is dict:
        return "an object"
    return f"of type {kind.__name__}"


def is_one_of(value: Any, allowed: Sequence[Any]) -> bool:
    """Whether a value is among others of its own type: 0 is not False.

    >>> is_one_of(0, (False, None)), is_one_of(False, (False, None))
    (False, True)
    """
    return any(type(value) is type(other) and value == other for other in allowed)


def shorten(value: Any, width: int = 80) -> str:
    r"""A value as a message shows it: on one line, control characters escaped.

    >>> shorten("\x1b[2J" + "x" * 99, 20)
    "'\\x1b[2Jxxxxxxxxx..."
    """
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."
