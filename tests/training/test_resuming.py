"""Some of the cases of one task; `python tests/resuming.py` has forty."""

from __future__ import annotations

import pytest
from resuming import CASES, resume_all

CHOSEN = ["killed after memory ran out", "a larger batch", "fewer records", "another optimiser"]


@pytest.mark.slow
def test_runs_that_are_killed_and_changed_go_on_as_they_should():
    outcomes = resume_all({name: CASES[name] for name in CHOSEN}, ["classification"])
    assert len(outcomes) == len(CHOSEN)
    assert {name: why for name, why in outcomes.items() if why} == {}
