"""Every token is in a window; the shares of a pair are those of the reference."""

from __future__ import annotations

import itertools

import pytest

from minift.text.windows import own_ranges, owners, shares, windows


def test_every_token_is_in_a_window_and_neighbours_overlap():
    for length in range(40):
        for size in range(1, 12):
            for overlap in range(size):
                found = windows(length, size, overlap)
                covered = {i for start, end in found for i in range(start, end)}
                assert covered == set(range(length))
                assert all(end - start == min(size, length) for start, end in found)
                for (_, end), (start, _) in itertools.pairwise(found):
                    assert end - start >= overlap


@pytest.mark.parametrize("overlap", [-1, 6, 7])
def test_an_overlap_that_does_not_advance_is_refused(overlap):
    with pytest.raises(ValueError, match="from 0 to 5"):
        windows(10, 6, overlap)


def test_shares_take_from_the_longer_text_first():
    def one_by_one(first: int, second: int, room: int) -> tuple[int, int]:
        """The rule in words: while there are too many, drop one of the longer text."""
        bigger_first = first > second
        while first + second > room:
            if first > second or (first == second and not bigger_first):
                first -= 1
            else:
                second -= 1
        return first, second

    for first in range(14):
        for second in range(14):
            for room in range(20):
                assert shares(first, second, room) == one_by_one(first, second, room)


def test_each_token_belongs_to_the_window_that_sees_most_around_it():
    for length in range(1, 40):
        for size in range(1, 12):
            for overlap in range(size):
                parts = windows(length, size, overlap)
                ranges = own_ranges(parts)
                expected = owners([(i, i + 1) for i in range(length)], parts)
                found = [n for n, (start, end) in enumerate(ranges) for _ in range(start, end)]
                assert found == expected, (length, size, overlap)
                for (start, end), (first, last) in zip(parts, ranges, strict=True):
                    assert start <= first <= last <= end


def test_an_empty_text_has_one_empty_window():
    assert own_ranges(windows(0, 5, 2)) == [(0, 0)]
