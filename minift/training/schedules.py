"""How the rate moves over a run: a step in, a factor of the highest rate out.

All rise in a straight line from 0 during warm-up (one-cycle along half a cosine from 1 / 25), since
the first steps of an adaptive optimiser know the gradients' size from a few batches only.  Then:

    linear        straight down to 0: what BERT was fine-tuned with (Devlin et al. 2019)
    cosine        down to 0 along half a cosine (Loshchilov and Hutter 2017)
    constant      stays
    inverse-sqrt  falls as 1 / sqrt(step): long runs whose end nobody knows (Vaswani et al. 2017)
    one-cycle     as cosine, to nearly 0; meant for a long warm-up, a third of the run (Smith 2018)

One only rises, without a warm-up:

    exponential   by the same factor at each step, from 1 / 100,000: see range_test.py (Smith 2017)

      linear        cosine        constant     inverse-sqrt     one-cycle       exponential
      /\\            /‾-.          /‾‾‾‾‾‾        /\\.              .‾-.                 /
     /   ` .       /    \\        /             /   ` - .        .'    \\               /
    /        ` .  /      ` -    /             /         - -   .'       ` -    ____..-'
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int, int, int], float]  # step, total, warmup -> factor

BEFORE, AFTER = 1 / 25, 1 / 250_000  # factors at both ends of one-cycle
DECADES = 5  # powers of ten that exponential runs through


def linear(step: int, total: int, warmup: int) -> float:
    """
    >>> [linear(step, total=6, warmup=2) for step in range(6)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup:
        return step / warmup
    return (total - step) / max(1, total - warmup)


def cosine(step: int, total: int, warmup: int) -> float:
    """
    >>> [round(cosine(step, total=6, warmup=2), 2) for step in range(6)]
    [0.0, 0.5, 1.0, 0.85, 0.5, 0.15]
    """
    if step < warmup:
        return step / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def constant(step: int, total: int, warmup: int) -> float:
    """
    >>> [constant(step, total=6, warmup=2) for step in range(6)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    """
    return step / warmup if step < warmup else 1.0


def inverse_sqrt(step: int, total: int, warmup: int) -> float:
    """Without warm-up it begins to fall at once.

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
        return between(BEFORE, 1.0, step / warmup)
    return between(1.0, AFTER, (step - warmup) / max(1, total - warmup - 1))


def exponential(step: int, total: int, warmup: int) -> float:
    """
    >>> [exponential(step, total=6, warmup=0) for step in range(6)]
    [1e-05, 0.0001, 0.001, 0.01, 0.1, 1.0]
    """
    return 10.0 ** (DECADES * step / max(1, total - 1) - DECADES)


SCHEDULES: dict[str, Schedule] = {
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
    "inverse-sqrt": inverse_sqrt,
    "one-cycle": one_cycle,
    "exponential": exponential,
}
