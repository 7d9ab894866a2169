"""Characters to tokens and back; the vectorised search for spans equals brute force."""

from __future__ import annotations

import random

import numpy as np
import pytest

from minift.text.spans import Span, best_spans, span_characters, token_span


def brute_force(starts, ends, core, new_from, max_length, count):
    spans = [
        Span(float(starts[i] + ends[j]), i, j)
        for i in range(core[1])
        for j in range(i, min(i + max_length, len(ends)))
        if np.isfinite(starts[i] + ends[j]) and (i >= core[0] or j >= new_from)
    ]
    return sorted(spans, key=lambda span: (-span.score, span.first, span.last))[:count]


@pytest.mark.parametrize("kind", ["distinct", "many equal", "some impossible"])
def test_equals_brute_force(kind):
    draw = np.random.default_rng(0)
    for _ in range(600):
        size = int(draw.integers(0, 14))
        if kind == "many equal":
            starts, ends = draw.integers(0, 3, (2, size)).astype(float)
        else:
            starts, ends = draw.normal(size=(2, size))
        if kind == "some impossible":
            starts[draw.random(size) < 0.5] = -np.inf
            ends[draw.random(size) < 0.3] = np.nan
        first, last = sorted(draw.integers(0, size + 1, 2).tolist())
        max_length, count = int(draw.integers(1, 7)), int(draw.integers(1, 9))
        new_from = int(draw.integers(0, size + 1))
        found = best_spans(starts, ends, (first, last), new_from, max_length, count)
        assert found == brute_force(starts, ends, (first, last), new_from, max_length, count)


def test_a_window_without_an_allowed_span_has_none():
    nothing = np.array([])
    assert best_spans(nothing, nothing, (0, 0), 0, 5, 3) == []
    assert best_spans(np.full(3, -np.inf), np.zeros(3), (0, 3), 0, 5, 3) == []
    assert best_spans(np.zeros(3), np.zeros(3), (2, 2), 3, 5, 3) == []


def test_a_span_may_be_longer_than_the_window():
    assert best_spans(np.zeros(2), np.array([0.0, 1.0]), (0, 2), 0, 1000, 1) == [Span(1.0, 0, 1)]


def test_a_token_span_holds_all_tokens_that_share_a_character():
    draw = random.Random(0)
    for _ in range(500):
        offsets, position = [], 0
        for _ in range(draw.randint(0, 6)):
            start = position + draw.randint(0, 2)
            position = start + draw.randint(1, 4)
            offsets.append((start, position))
        start = draw.randint(0, position + 2)
        end = start + draw.randint(1, 5)
        sharing = [i for i, (a, b) in enumerate(offsets) if a < end and start < b]
        expected = (sharing[0], sharing[-1]) if sharing else None
        assert token_span(np.array(offsets).reshape(-1, 2), start, end) == expected


def test_combining_marks_go_with_their_letter():
    text = "cafe\u0301\u0323 x"
    assert text[slice(*span_characters(text, np.array([[0, 4], [7, 8]]), 0, 0))] == text[:6]
    assert span_characters(text, np.array([[0, 4], [7, 8]]), 0, 1) == (0, 8)
