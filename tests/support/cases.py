"""Which cases of a test run by default, and which with --exhaustive only."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest

EXHAUSTIVE = (pytest.mark.slow, pytest.mark.exhaustive)


def cases_with(few: Collection, cases: Iterable) -> list:
    """All cases, for `parametrize`; those that are not among the few run with --exhaustive only."""
    cases = list(cases)
    assert all(case in cases for case in few)  # else the default run would lack one unnoticed
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else [case]), marks=() if case in few else EXHAUSTIVE
        )
        for case in cases
    ]
