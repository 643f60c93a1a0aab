"""Learning-rate schedules: the factor on the base rate as a function of training progress."""

import math
from typing import Annotated, Protocol

from pydantic import Field

from components.foundation.params import Real

InnerShare = Annotated[Real, Field(gt=0, lt=1)]
"""A point inside training, as a share of it."""
# A rate that changes by this share at one point jumps; a smaller change counts as a slope.
JUMP = 0.1
# The number of parts of an epoch in which jumps are looked for, and how often a part that may hold one is halved.
PARTS, HALVINGS = 16, 40


class Schedule(Protocol):
    """Progress in epochs, a float in [0, epochs], -> the factor on the base learning rate."""

    def factor(self, progress: float, epochs: int) -> float: ...


def jumps(schedule: Schedule, epochs: int) -> list[float]:
    """The points, in epochs, at which the learning rate jumps during a run of `epochs`.

    Halving a stretch keeps the change of a jump in it, while that of a slope halves, however steep it is.
    """
    points: list[float] = []
    for part in range(epochs * PARTS):
        low, high = part / PARTS, (part + 1) / PARTS
        before, after = schedule.factor(low, epochs), schedule.factor(high, epochs)
        least = JUMP * max(before, after)
        for _ in range(HALVINGS):
            if abs(after - before) <= least:
                break
            middle = (low + high) / 2
            between = schedule.factor(middle, epochs)
            if abs(between - before) > abs(after - between):
                high, after = middle, between
            else:
                low, before = middle, between
        # A jump at the end of training affects no step.
        if abs(after - before) > least and high < epochs:
            points.append(high)
    return points


def half_cosine(share: float) -> float:
    """Half a cosine from 1 at `share` 0 to 0 at 1, level beyond."""
    return (1 + math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2
