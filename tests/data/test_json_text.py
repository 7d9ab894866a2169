"""JSON in pieces: the same values as `json.loads`, or an error at the same place."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from minift.data.json_text import JsonError, JsonText

VALUES = [
    *(1, -2.5e-3, 12345678901, None, True, False, "", "é🙂", 'a "quoted" \\ text', "\n"),
    *([], {}, [[1, [2]]], {"k": {"l": [None]}}, float("inf"), "x" * 200),
]


def pieces_of(text: str, draw: random.Random) -> list[str]:
    cuts = sorted(draw.randrange(len(text) + 1) for _ in range(draw.choice([0, 1, 10, 200])))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("seed", range(200))
def test_values_in_pieces_are_those_of_the_whole(seed, monkeypatch):
    monkeypatch.setattr("minift.data.json_text.MIN_READ", 1)
    draw = random.Random(seed)
    values = draw.choices(VALUES, k=draw.choice([0, 1, 20]))
    whole = {"before": draw.choice(VALUES), "items": values, "after": draw.choice(VALUES)}
    text = json.dumps(whole, indent=draw.choice([None, 0, 2]), ensure_ascii=draw.random() < 0.5)
    found = JsonText(pieces_of(text, draw), 10_000)
    read = {}
    for key in found.members():
        read[key] = [found.value() for _ in found.items()] if key == "items" else found.value()
    found.end()
    assert read == whole


def items_of(pieces: list[str]) -> list[Any]:
    text = JsonText(pieces, 10_000)
    values = [text.value() for _ in text.items()]
    text.end()
    return values


def outcome(decode: Callable[[], list[Any]]) -> Any:
    """The values, or the reason of the error and its line."""
    try:
        return decode()
    except json.JSONDecodeError as error:
        return error.msg, error.lineno
    except JsonError as error:
        return error.reason, error.line


@pytest.mark.parametrize("seed", range(200))
def test_errors_are_at_the_place_of_the_whole(seed, monkeypatch):
    monkeypatch.setattr("minift.data.json_text.MIN_READ", 1)
    draw = random.Random(seed)
    text = json.dumps(draw.choices(VALUES, k=5), indent=draw.choice([None, 0]))
    place = draw.randrange(1, len(text))
    text = text[:place] + draw.choice(["", "", "]", ",", '"', "x", "\n", "{"]) + text[place + 1 :]
    assert outcome(lambda: items_of(pieces_of(text, draw))) == outcome(lambda: json.loads(text))


def test_a_value_has_a_limit_and_the_others_are_not_held():
    def pieces():
        yield "["
        for _ in range(1000):
            yield json.dumps("x" * 1000) + ","
        yield '"'
        while True:
            yield "y" * 1000

    found = JsonText(pieces(), 100_000)
    items = found.items()
    for _ in range(1000):
        next(items)
        assert found.value() == "x" * 1000
        assert len(found._text) < 200_000
    next(items)
    with pytest.raises(JsonError, match="more than 100,000 characters"):
        found.value()
    assert len(found._text) < 400_000
