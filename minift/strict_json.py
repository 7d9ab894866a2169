"""JSON that a stranger wrote: parsed within bounds, and refused where readers would differ.

The JSON standard lacks NaN and infinity, leaves open a key that occurs twice in one object (of
which `transformers` takes the last), and allows half of a surrogate pair, which is no text.  All
three are errors here.  The bounds keep a small file from filling the memory.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

MAX_VALUES = 1_000_000  # in all lists and objects together
MAX_DEPTH = 100
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
MAX_DIGITS = 40  # a model_max_length of 1e30, which many tokenizers have, is written with 31


def parse_json(data: bytes, max_values: int = MAX_VALUES) -> Any:
    """The value that UTF-8 text in JSON describes; `ValueError` says what is wrong with it.

    >>> parse_json(b'{"hidden_size": 384}')
    {'hidden_size': 384}
    >>> parse_json(b'{"hidden_size": 384, "hidden_size": 32}')
    Traceback (most recent call last):
    ValueError: holds the key 'hidden_size' twice in one object
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > max_values:
        raise ValueError(f"holds more than {max_values:,} values")
    too_deep = ValueError(f"is nested more than {MAX_DEPTH} deep")
    try:
        value = json.loads(
            data.decode(),
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise too_deep from None
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = (
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        )
        level = [value for values in inner for value in values]
    if level:
        raise too_deep
    if SURROGATE.search(data):  # only an escape can be half of a pair
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair, which is no text") from None
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"holds an integer of {len(digits):,} digits")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"holds the number {text:.20}, which is not finite")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"holds the key {name!r:.80} twice in one object")
    return value
