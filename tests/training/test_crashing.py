"""A dozen kills, with --exhaustive; `python tests/crashing.py` makes two hundred."""

from __future__ import annotations

import os

import pytest
from crashing import SAVE_STEPS, crash_all


@pytest.mark.slow
@pytest.mark.exhaustive
def test_killed_at_random_moments_and_resumed_all_tasks_give_the_same_bits():
    seed = int.from_bytes(os.urandom(2), "little")
    for task, outcome in crash_all(12, seed).items():
        assert not outcome.wrong, (seed, task, outcome.wrong)
        assert outcome.kills == 3, (seed, task)
        assert outcome.most_steps_lost <= SAVE_STEPS, (seed, task)
