"""Every token is in a window; pairs are truncated as in `transformers`."""

from __future__ import annotations

import itertools

import pytest

from minift.text.windows import best_window, truncate_pair, window_cores, windows


def test_every_token_is_in_a_window_and_neighbours_overlap():
    for length in range(40):
        for size in range(1, 12):
            for doc_stride in range(size):
                found = windows(length, size, doc_stride)
                covered = {i for start, end in found for i in range(start, end)}
                assert covered == set(range(length))
                assert all(end - start == min(size, length) for start, end in found)
                for (_, end), (start, _) in itertools.pairwise(found):
                    assert end - start >= doc_stride


@pytest.mark.parametrize("doc_stride", [-1, 6, 7])
def test_a_doc_stride_that_does_not_advance_is_refused(doc_stride):
    with pytest.raises(ValueError, match="from 0 to 5"):
        windows(10, 6, doc_stride)


def test_the_longer_text_of_a_pair_is_truncated_first():
    def one_by_one(first: int, second: int, max_tokens: int) -> tuple[int, int]:
        """The rule: while there are too many tokens, remove one from the longer text."""
        bigger_first = first > second
        while first + second > max_tokens:
            if first > second or (first == second and not bigger_first):
                first -= 1
            else:
                second -= 1
        return first, second

    for first in range(14):
        for second in range(14):
            for max_tokens in range(20):
                assert truncate_pair(first, second, max_tokens) == one_by_one(
                    first, second, max_tokens
                )


def test_each_token_is_in_the_core_of_the_window_with_the_most_context():
    for length in range(1, 40):
        for size in range(1, 12):
            for doc_stride in range(size):
                parts = windows(length, size, doc_stride)
                ranges = window_cores(parts)
                expected = best_window([(i, i + 1) for i in range(length)], parts)
                found = [n for n, (start, end) in enumerate(ranges) for _ in range(start, end)]
                assert found == expected, (length, size, doc_stride)
                for (start, end), (first, last) in zip(parts, ranges, strict=True):
                    assert start <= first <= last <= end


def test_an_empty_text_has_one_empty_window():
    assert window_cores(windows(0, 5, 2)) == [(0, 0)]
