"""Which cases of a test run by default, and which with --exhaustive only."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

EXHAUSTIVE = (pytest.mark.slow, pytest.mark.exhaustive)


def cases_with(few: Iterable, cases: Iterable) -> list:
    """All cases, for `parametrize`; those that are not among the few run with --exhaustive only."""
    few = list(few)
    return [
        pytest.param(*(case if isinstance(case, tuple) else [case]), marks=marks)
        for case in cases
        for marks in [() if case in few else EXHAUSTIVE]
    ]
