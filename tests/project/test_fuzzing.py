"""A few hundred corrupted files; `python tests/fuzzing.py` tries twenty thousand."""

from __future__ import annotations

import time

import predicting
import pytest
from fuzzing import fuzz


@pytest.mark.slow
def test_corrupted_files_are_read_or_refused():
    # Other files each day; a failure names the seed that reproduces its file.
    first = int(time.time()) // 86_400 * 1_000
    found, failures = fuzz(first, 300)
    assert not failures, failures[:3]
    assert sum(found.values()) == 300
    assert sum(count for (_, fate), count in found.items() if fate == "refused") > 100
    assert sum(count for (_, fate), count in found.items() if fate == "accepted") > 20


@pytest.mark.parametrize("seed", [296, 1453, 1686])
def test_files_that_once_crashed_a_reader(seed):
    """Found by fuzzing: a number for architectures, true for a token, a panic in a template."""
    _, failures = fuzz(seed, 1)
    assert not failures


@pytest.mark.slow
def test_predictions_of_mutated_files_have_one_result_for_each_record():
    """Two hundred; `python tests/predicting.py --count 5000` tries more."""
    first = int(time.time()) // 86_400 * 1_000
    found, failures = predicting.fuzz(first, 200)
    assert not failures, failures[:3]
    assert sum(count for (_, fate), count in found.items() if fate == "predicted") > 80
    assert sum(count for (_, fate), count in found.items() if fate == "refused") > 20
