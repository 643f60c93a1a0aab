"""Schedules: the factor on the base rate, and for some the momentum, as functions of training progress."""

import math
from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field

from components.foundation.params import Real

Warmup = Annotated[Real, Field(ge=0)]
"""Epochs at the beginning in which the rate rises in a line to where the schedule begins: of n steps the first has
1/n of that rate, the last all of it."""
InnerShare = Annotated[Real, Field(gt=0, lt=1)]
"""A point inside training, as a share of it."""
Momentum = Annotated[Real, Field(ge=0, lt=1)]
"""A momentum of SGD."""
# A rate that changes by this share at one point jumps; a smaller change counts as a slope.
JUMP = 0.1
# The number of parts of an epoch in which jumps are looked for, and how often a part that may hold one is halved.
PARTS, HALVINGS = 16, 40


class Schedule(Protocol):
    """Progress in epochs, a float in [0, epochs], -> the factor on the base learning rate."""

    def factor(self, progress: float, epochs: int) -> float: ...


@runtime_checkable
class MomentumSchedule(Protocol):
    """A schedule that moves the momentum too: progress in epochs, `epochs`, the recipe's momentum -> the momentum."""

    def momentum(self, progress: float, epochs: int, largest: float) -> float: ...


@runtime_checkable
class WarmedSchedule(Protocol):
    """A schedule with a warm-up, in which a step that takes `step` of an epoch has the rate of its end: that of its
    begin would be 0 for the first, which then moves nothing."""

    @property
    def warmup(self) -> float: ...

    def factor(self, progress: float, epochs: int, step: float = 0.0) -> float: ...


def factor_of_step(schedule: Schedule, progress: float, epochs: int, step: float) -> float:
    """The factor for a step that begins at `progress` and takes `step` of an epoch."""
    if isinstance(schedule, WarmedSchedule):
        return schedule.factor(progress, epochs, step)
    return schedule.factor(progress, epochs)


def momentum(schedule: Schedule, progress: float, epochs: int, largest: float) -> float:
    """The momentum at a point of training, from the recipe's, which is the largest."""
    return schedule.momentum(progress, epochs, largest) if isinstance(schedule, MomentumSchedule) else largest


def warmed(progress: float, warmup: float) -> float:
    """The factor of a linear warm-up: from 0 to 1 in `warmup` epochs, then 1."""
    return min(1.0, progress / warmup) if warmup else 1.0


def share_after(progress: float, epochs: int, warmup: float) -> float:
    """The share of what follows the warm-up that is over, in [0, 1]."""
    return min(max((progress - warmup) / max(epochs - warmup, 1e-9), 0.0), 1.0)


def between(largest: float, at_peak: float | None, height: float) -> float:
    """`largest` at height 0, `at_peak` at height 1; `largest` throughout where there is no momentum at the peak."""
    return largest if at_peak is None else largest - (largest - at_peak) * height


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
