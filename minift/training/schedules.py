"""Learning rate schedules: functions from a step to a factor of the highest learning rate.

During warmup all rise linearly from 0 (one-cycle along half a cosine from 1 / 25), because an
adaptive optimiser estimates the gradients' size from only a few batches at first.  Then:

    linear        falls linearly to 0, as in BERT's fine-tuning (Devlin et al. 2019)
    cosine        falls to 0 along half a cosine (Loshchilov and Hutter 2017, "SGDR")
    constant      stays at the highest learning rate
    inverse-sqrt  falls as 1 / sqrt(step), for runs of unknown length (Vaswani et al. 2017)
    one-cycle     as cosine, to nearly 0, with a warmup of a third of the run (Smith 2018, "A
                  disciplined approach to neural network hyper-parameters")

A step beyond the last has the factor of the end, so no factor is ever outside of 0 to 1.

One only rises, and has no warmup:

    exponential   grows by the same factor at each step, from 1 / 100,000; for the range test of
                  experiments/lr_range_test.py (Smith 2017, "Cyclical learning rates")

      linear        cosine        constant     inverse-sqrt     one-cycle       exponential
      /\\            /‾-.          /‾‾‾‾‾‾        /\\.              .‾-.                 /
     /   ` .       /    \\        /             /   ` - .        .'    \\               /
    /        ` .  /      ` -    /             /         - -   .'       ` -    ____..-'
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int, int, int], float]  # step, total, warmup -> factor from 0 to 1

FIRST, LAST = 1 / 25, 1 / 250_000  # factors at both ends of one-cycle
DECADES = 5  # powers of ten that exponential spans


def linear(step: int, total: int, warmup: int) -> float:
    """
    >>> [linear(step, total=6, warmup=2) for step in range(6)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup:
        return step / warmup
    return max(0, total - step) / max(1, total - warmup)


def cosine(step: int, total: int, warmup: int) -> float:
    """
    >>> [round(cosine(step, total=6, warmup=2), 2) for step in range(6)]
    [0.0, 0.5, 1.0, 0.85, 0.5, 0.15]
    """
    if step < warmup:
        return step / warmup
    done = min(step, total) - warmup
    return (1 + math.cos(math.pi * done / max(1, total - warmup))) / 2


def constant(step: int, total: int, warmup: int) -> float:
    """
    >>> [constant(step, total=6, warmup=2) for step in range(6)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    """
    return step / warmup if step < warmup else 1.0


def inverse_sqrt(step: int, total: int, warmup: int) -> float:
    """Without warmup it falls from the first step.

    >>> [round(inverse_sqrt(step, total=9, warmup=2), 2) for step in (0, 1, 2, 4, 8)]
    [0.0, 0.5, 1.0, 0.71, 0.5]
    """
    if step < warmup:
        return step / warmup
    begin = max(1, warmup)
    return math.sqrt(begin / (step - warmup + begin))


def one_cycle(step: int, total: int, warmup: int) -> float:
    """
    >>> [round(one_cycle(step, total=6, warmup=2), 2) for step in range(6)]
    [0.04, 0.52, 1.0, 0.75, 0.25, 0.0]
    """

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    if step < warmup:
        return between(FIRST, 1.0, step / warmup)
    return between(1.0, LAST, min(1.0, (step - warmup) / max(1, total - warmup - 1)))


def exponential(step: int, total: int, warmup: int) -> float:
    """
    >>> [exponential(step, total=6, warmup=0) for step in range(6)]
    [1e-05, 0.0001, 0.001, 0.01, 0.1, 1.0]
    """
    return min(1.0, 10.0 ** (DECADES * step / max(1, total - 1) - DECADES))


SCHEDULES: dict[str, Schedule] = {
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
    "inverse-sqrt": inverse_sqrt,
    "one-cycle": one_cycle,
    "exponential": exponential,
}
