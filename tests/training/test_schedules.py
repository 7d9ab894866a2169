"""Schedules: what the field's libraries do, and what each promises."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from minift.training.schedules import SCHEDULES

LENGTHS = [(10, 0), (10, 3), (7, 7), (1, 0), (40, 13)]


def factors(name, total, warmup):
    return [SCHEDULES[name](step, total, warmup) for step in range(total)]


def rates(make, total):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(total):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("total", "warmup"), LENGTHS)
def test_they_equal_those_of_transformers(total, warmup):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    theirs = {
        "linear": lambda o: transformers.get_linear_schedule_with_warmup(o, warmup, total),
        "cosine": lambda o: transformers.get_cosine_schedule_with_warmup(o, warmup, total),
        "constant": lambda o: transformers.get_constant_schedule_with_warmup(o, warmup),
    }
    if warmup:
        theirs["inverse-sqrt"] = lambda o: transformers.get_inverse_sqrt_schedule(o, warmup)
    for name, make in theirs.items():
        assert factors(name, total, warmup) == pytest.approx(rates(make, total)), name


def test_one_cycle_equals_torchs():
    def make(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=41, pct_start=0.325)

    # torch's warmup of pct_start * total - 1 steps: the top is reached in step 12.325.
    ours = [SCHEDULES["one-cycle"](step, 41, 12.325) for step in range(40)]
    assert ours == pytest.approx(rates(make, 40), abs=1e-6)


@pytest.mark.parametrize("name", [one for one in SCHEDULES if one != "exponential"])
def test_they_rise_to_the_top_and_never_rise_again(name):
    found = factors(name, 100, 30)
    assert max(found) == found[30] == 1
    assert found[:31] == sorted(found[:31])
    assert found[30:] == sorted(found[30:], reverse=True)
    assert found[0] < 0.041
    assert (found[-1] < 0.02) == (name in ("linear", "cosine", "one-cycle"))
    assert all(0 <= factor <= 1 for factor in factors(name, 5, 0))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("total", "warmup"), LENGTHS)
def test_no_factor_is_outside_of_0_to_1_even_beyond_the_end(name, total, warmup):
    schedule = SCHEDULES[name]
    end = schedule(total, total, warmup)
    beyond = [schedule(total + more, total, warmup) for more in range(2 * total + 2)]
    assert all(0 <= factor <= 1 for factor in [*factors(name, total, warmup), *beyond])
    if name != "inverse-sqrt" and warmup < total:  # the first has no end
        assert beyond == [end] * len(beyond)


@pytest.mark.parametrize("warmup", [0, 30])
def test_the_exponential_one_rises_by_the_same_factor_to_the_end(warmup):
    found = factors("exponential", 101, warmup)
    assert (found[0], found[-1]) == (pytest.approx(1e-5), 1)
    assert [b / a for a, b in pairwise(found)] == pytest.approx([10**0.05] * 100)
    assert factors("exponential", 1, 0) == [pytest.approx(1e-5)]
