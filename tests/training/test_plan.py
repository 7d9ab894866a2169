"""The plan: epochs, steps, and a position in it that is counted in records."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from minift.data.batching import chunks, training_batches
from minift.errors import UserError
from minift.training.options import TrainOptions
from minift.training.plan import Plan
from minift.training.state import EpochOrder, TrainerState

OPTIONS = TrainOptions(batch_size=4, epochs=3, min_steps=0, learning_rate=1e-3, seed=5)


def lengths_of(count: int) -> list[int]:
    draw = random.Random(count)
    return [draw.randint(3, 60) for _ in range(count)]


def run_steps(plan: Plan, state: TrainerState, count: int = 10**6) -> list:
    """Take at most so many steps; returns them with the learning rate of each."""
    taken = []
    for step in plan.steps(state):
        if len(taken) == count:
            break
        taken.append((step, plan.learning_rate(state.step)))
        plan.advance(state, step)
    return taken


def started(plan: Plan, count: int) -> TrainerState:
    state = TrainerState()
    plan.continue_from(state)
    run_steps(plan, state, count)
    return state


def test_a_run_takes_the_batches_of_each_epoch_in_order():
    lengths = lengths_of(45)
    options = replace(OPTIONS, gradient_accumulation_steps=2)
    taken = run_steps(Plan(lengths, options), started(Plan(lengths, options), 0))
    expected = [
        step
        for epoch in range(3)
        for step in chunks(training_batches(lengths, 4, 5, epoch, True), 2)
    ]
    assert [step.batches for step, _ in taken] == expected
    assert [step.number for step, _ in taken] == [*range(6)] * 3
    assert [step.epoch for step, _ in taken] == [0] * 6 + [1] * 6 + [2] * 6
    assert [step.ends_epoch for step, _ in taken] == ([False] * 5 + [True]) * 3


@pytest.mark.parametrize("count", [0, 1, 5, 11, 12, 13, 30, 35])
def test_continued_without_a_change_the_rest_is_the_same(count):
    lengths = lengths_of(45)
    plan = Plan(lengths, OPTIONS)
    whole = run_steps(plan, started(plan, 0))
    state = started(plan, count)
    plan.continue_from(state)
    assert state.step == count
    rest = run_steps(plan, state)
    assert [(s.batches, s.number, rate) for s, rate in rest] == [
        (s.batches, s.number, rate) for s, rate in whole[count:]
    ]
    assert state.step == state.total_steps == 36


def test_with_another_batch_size_each_record_is_still_used_once_in_an_epoch():
    draw = random.Random(0)
    for _ in range(200):
        lengths = lengths_of(draw.randint(1, 70))
        changed = [
            replace(
                OPTIONS,
                batch_size=draw.randint(1, 20),
                gradient_accumulation_steps=draw.randint(1, 3),
                seed=draw.randint(0, 1),
                group_by_length=draw.random() < 0.5,
                epochs=draw.choice([3, 3, 5]),
                lr_scheduler_type=draw.choice(["linear", "cosine", "one-cycle"]),
            )
            for _ in range(3)
        ]
        used: list[tuple[int, int]] = []
        state = TrainerState()
        for options in changed:  # three processes, each with other options
            plan = Plan(lengths, options)
            try:
                plan.continue_from(state)
            except UserError:  # fewer epochs than are done
                assert state.epoch >= plan.epochs
                break
            steps = run_steps(plan, state, draw.randint(0, 2 * plan.steps_per_epoch))
            used += [(s.epoch, i) for s, _ in steps for batch in s.batches for i in batch]
            assert all(0 <= rate <= options.learning_rate for _, rate in steps)
            assert 0 <= state.step <= plan.total_steps
            place = state.epoch * plan.steps_per_epoch
            assert place <= state.step <= place + plan.steps_per_epoch
        else:
            steps = run_steps(plan, state)
            used += [(s.epoch, i) for s, _ in steps for batch in s.batches for i in batch]
            assert sorted(used) == [(e, i) for e in range(plan.epochs) for i in range(len(lengths))]
            assert state.step == plan.total_steps


def test_the_position_is_that_of_the_records():
    """Half of the records are used, so half of the new plan's steps are."""
    state = started(Plan(lengths_of(64), OPTIONS), 24)  # of 48 steps of 4 records
    plan = Plan(lengths_of(64), replace(OPTIONS, batch_size=16))
    plan.continue_from(state)
    assert (state.step, plan.total_steps) == (6, 12)
    assert plan.learning_rate(state.step) == pytest.approx(1e-3 * 6 / (12 - 2))


def test_the_example():
    state = started(Plan([1] * 10, replace(OPTIONS, batch_size=2, epochs=1)), 3)
    plan = Plan([1] * 10, replace(OPTIONS, batch_size=3, epochs=1))
    plan.continue_from(state)
    assert (state.step, plan.total_steps) == (2, 4)
    assert [list(map(len, step.batches)) for step, _ in run_steps(plan, state)] == [[3], [1]]


@pytest.mark.parametrize(("count", "epoch", "used"), [(60, 0, 24), (24, 1, 0), (10, 1, 0)])
def test_with_other_data_as_many_records_count_as_used(count, epoch, used):
    state = started(Plan(lengths_of(44), OPTIONS), 6)  # 24 records
    plan = Plan(lengths_of(count), OPTIONS)
    plan.continue_from(state)
    assert (state.epoch, sum(order.used for order in state.orders)) == (epoch, used)
    records = [i for s, _ in run_steps(plan, state) for batch in s.batches for i in batch]
    assert len(records) == 3 * count - (epoch * count + used)
    assert state.step == plan.total_steps == 3 * math.ceil(count / 4)


def test_a_changed_plan_without_a_step_left_is_refused():
    state = started(Plan(lengths_of(44), OPTIONS), 30)
    with pytest.raises(UserError, match=r"has 2 complete epochs.* plan 2.*give more --epochs"):
        Plan(lengths_of(44), replace(OPTIONS, epochs=2)).continue_from(state)


def test_a_run_that_died_after_its_last_step_has_none_left():
    plan = Plan(lengths_of(44), OPTIONS)
    state = started(plan, 33)
    for options in (OPTIONS, replace(OPTIONS, batch_size=8)):
        plan = Plan(lengths_of(44), options)
        plan.continue_from(state)
        assert state.step == plan.total_steps
        assert run_steps(plan, state) == []
    plan = Plan(lengths_of(44), replace(OPTIONS, epochs=4))
    plan.continue_from(state)
    assert len(run_steps(plan, state)) == 11


def test_the_orders_of_an_epoch_are_forgotten_with_it():
    state = started(Plan(lengths_of(44), OPTIONS), 3)
    plan = Plan(lengths_of(44), replace(OPTIONS, batch_size=9))
    plan.continue_from(state)
    new = EpochOrder(seed=5, batch_size=9, by_length=True)
    assert state.orders == [EpochOrder(5, 4, True, used=12), new]
    run_steps(plan, state, 4)
    assert (state.epoch, state.orders) == (1, [new])
