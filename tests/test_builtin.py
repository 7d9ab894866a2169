"""The built-in reviews: enough of them, balanced, and no two alike."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from minift.data.read import builtin, read_classification

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def records():
    return {name: read_classification(builtin(f"reviews.{name}.tsv")) for name in SPLITS}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def test_enough_and_balanced(records):
    assert sum(map(len, records.values())) >= 480
    assert all(len(part) >= 100 for part in records.values())
    for part in records.values():
        counts = Counter(record.label for record in part)
        assert set(counts) == {"negative", "positive"}
        assert min(counts.values()) / len(part) > 0.45


def test_no_near_duplicates_anywhere(records):
    texts = [record.text for part in records.values() for record in part]
    sets = [set(words(text)) for text in texts]
    runs: dict[tuple[str, ...], int] = {}
    for i, text in enumerate(texts):
        sequence = words(text)
        for j in range(len(sequence) - 6):
            run = tuple(sequence[j : j + 7])
            assert runs.setdefault(run, i) == i, (texts[runs[run]], text)
        for k in range(i):
            if len(sets[i] & sets[k]) > 4:
                share = len(sets[i] & sets[k]) / len(sets[i] | sets[k])
                assert share < 0.5, (texts[k], text)


def test_hard_ones_are_among_them(records):
    texts = [record.text.lower() for part in records.values() for record in part]
    for pattern in (r"\bnot\b|n't\b|\bnever\b|\bnothing\b", r"\bbut\b|\byet\b|though"):
        assert sum(bool(re.search(pattern, text)) for text in texts) > len(texts) / 20
