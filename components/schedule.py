"""Learning-rate schedules: the factor on the base rate as a function of training progress."""

import math
from itertools import pairwise
from typing import Protocol

from pydantic.dataclasses import dataclass

from components.params import STRICT, Real

# A rate that changes by this share at one point jumps; what is smaller is a slope to the losses.
JUMP = 0.1
# Jumps are looked for in so many parts of an epoch; a part that may hold one is halved so often.
PARTS, HALVINGS = 16, 40


class Schedule(Protocol):
    """Progress in epochs, a float in [0, epochs], -> the factor on the base learning rate."""

    def factor(self, progress: float, epochs: int) -> float: ...


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Constant:
    """The base rate throughout."""

    def factor(self, progress: float, epochs: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Step:
    """The base rate times `decay` for each of `milestones` (in epochs) that has passed."""

    milestones: tuple[int, ...]
    decay: Real

    def __post_init__(self) -> None:
        if any(late <= early for early, late in pairwise(self.milestones)):
            raise ValueError(f"got milestones {list(self.milestones)}, want them increasing")

    def factor(self, progress: float, epochs: int) -> float:
        return self.decay ** sum(progress >= milestone for milestone in self.milestones)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cosine:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter, arXiv 1608.03983, eq. 5), after a linear warm-up in epochs."""

    warmup: Real

    def factor(self, progress: float, epochs: int) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        return _half_cosine((progress - self.warmup) / max(epochs - self.warmup, 1e-9))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OneCycle:
    """A cosine from `start` up to 1 at the share `peak` of training, then to 0 (Smith & Topin, arXiv 1708.07120)."""

    start: Real
    peak: Real

    def __post_init__(self) -> None:
        _require_share(self.peak)

    def factor(self, progress: float, epochs: int) -> float:
        share = progress / epochs
        if share < self.peak:
            return self.start + (1 - self.start) * (1 - _half_cosine(share / self.peak))
        return _half_cosine((share - self.peak) / (1 - self.peak))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cyclic:
    """A line from 0 to 1 at the share `peak` of training and back (Wong et al., arXiv 2001.03994, section 5)."""

    peak: Real

    def __post_init__(self) -> None:
        _require_share(self.peak)

    def factor(self, progress: float, epochs: int) -> float:
        share = progress / epochs
        return share / self.peak if share < self.peak else max(0.0, (1 - share) / (1 - self.peak))


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "step": Step,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "cyclic": Cyclic,
}


def jumps(schedule: Schedule, epochs: int) -> list[float]:
    """The points, in epochs, at which the learning rate jumps during a run of `epochs`.

    Halving a stretch keeps the change of a jump in it, while that of a slope halves, however steep it is.
    """
    found = []
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
        # What comes with the very end touches no step.
        if abs(after - before) > least and high < epochs:
            found.append(high)
    return found


def _half_cosine(share: float) -> float:
    return (1 + math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2


def _require_share(peak: float) -> None:
    if not 0 < peak < 1:
        raise ValueError(f"got peak {peak}, want a share of training between 0 and 1")
