"""What the curves of a tangent kernel say of a training: when it was lazy, where it jumped, which epochs did nothing.

Everything is read from the rows of a curves file. A *velocity* is a kernel distance per epoch. It is known between two
probes only, so a finding begins and ends at probes, and it is compared in its order of magnitude where intervals differ
in length (`components/ntk/dynamics.py`). The limits are conventions of this project, not those of a paper.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from statistics import median
from typing import NamedTuple

from components.statistics.documents import Document

MIN_STEPS = 5  # Changes of velocity, below which their median and deviation say nothing.
SETTLED = 2  # Intervals that the kernel must be lazy for at the end: after one, it has not stayed lazy.
FASTER = 2  # How many times as fast as before a jump is at least.
STILL = 1e-3  # Share of the largest velocity below which a kernel stands still: from there, no change is a jump.
NORMAL = 1.4826  # Standard deviations of a normal distribution per median absolute deviation.


Best = tuple[float, float]
"""Clean and robust accuracy."""
NONE: Best = (-math.inf, -math.inf)


class Limits(NamedTuple):
    """`lazy`: share of the largest velocity; `jump`: robust z-score; `gain`: of an accuracy, in [0, 1]."""

    lazy: float = 0.1
    jump: float = 3.5
    gain: float = 0.005


class KernelCurve(NamedTuple):
    """The kernel at T probes, and the accuracies on the validation split.

    `epochs` and `ranks` (effective ranks) have T entries, `distances` the T - 1 between a probe and the next one;
    `accuracies` are epochs with clean and robust accuracy. `kind` is of the kernel's images: clean, or adversarial.
    """

    kind: str
    epochs: tuple[float, ...]
    distances: tuple[float, ...]
    ranks: tuple[float, ...]
    accuracies: tuple[tuple[float, Best], ...]

    @property
    def velocities(self) -> list[float]:
        """Of the T - 1 intervals."""
        steps = zip(self.distances, pairwise(self.epochs), strict=True)
        return [distance / (end - start) for distance, (start, end) in steps]


class Stretch(Document):
    """Epochs from one probe to a later one."""

    start: float
    end: float
    velocity: float
    """The kernel distance per epoch, the mean over its epochs."""


class Phase(Stretch):
    """Neighbouring intervals that are all lazy, or all not."""

    lazy: bool
    rank_start: float
    """The effective rank of the kernel at the start."""
    rank_end: float


class Jump(Stretch):
    """An interval in which the kernel suddenly turned faster."""

    ratio: float
    """The velocity over that of the interval before."""
    score: float
    """The robust z-score of the logarithm of `ratio` among all of the run: (x - median) / (1.4826 MAD)."""


class Idle(Stretch):
    """Neighbouring intervals that bought nothing: lazy, and without a new best accuracy worth the name.

    Both gains are the best accuracy in it minus the best one before; negative where it stayed below.
    """

    gain_clean: float
    gain_robust: float


class KernelReading(Document):
    """What one run's kernel did. Epochs are numbers, since a probe may lie inside an epoch."""

    kind: str
    """The images whose kernel it is: adversarial or clean."""
    probes: int
    fastest: Stretch
    """The interval with the largest velocity."""
    last: Stretch
    """The last interval."""
    phases: tuple[Phase, ...]
    lazy_since: float | None
    """From which epoch on the kernel was lazy to the end, for at least two intervals; null where it was not."""
    lazy_velocity: float | None
    """The largest velocity from then on."""
    jumps: tuple[Jump, ...]
    largest_score: float | None
    """The largest robust z-score of a change of velocity; null where there are too few intervals to tell."""
    idle: tuple[Idle, ...]
    idle_share: float
    """Share of all measured epochs that bought nothing."""
    lazy_limit: float
    jump_limit: float
    gain_limit: float


def kernel_curve(rows: Sequence[Mapping[str, str]]) -> KernelCurve | None:
    """The curve on attacked images, else on clean ones; None with fewer than two probes or without accuracies."""
    columns = ("epoch", "clean_accuracy", "robust_accuracy")
    known = [[float(row[name]) for name in columns] for row in rows if all(row.get(name) for name in columns)]
    accuracies = tuple((epoch, (clean, robust)) for epoch, clean, robust in known)
    for kind in ("adversarial", "clean"):
        distance, rank = f"ntk_{kind}_distance_previous", f"ntk_{kind}_effective_rank"
        probed = [row for row in rows if row.get(distance) and row.get(rank)]
        if len(probed) > 1 and accuracies:
            epochs, ranks = (tuple(float(row[name]) for row in probed) for name in ("epoch", rank))
            return KernelCurve(kind, epochs, tuple(float(row[distance]) for row in probed[1:]), ranks, accuracies)
    return None


def read_kernel(curve: KernelCurve, limits: Limits | None = None) -> KernelReading:
    """All findings of one run."""
    limits = limits or Limits()
    velocities, scores = curve.velocities, jump_scores(curve.velocities, limits)
    phases, since = find_phases(curve, limits), lazy_from(curve, limits)
    idle = find_idle(curve, limits)
    top, last = velocities.index(max(velocities)), len(velocities) - 1
    return KernelReading(
        kind=curve.kind,
        probes=len(curve.epochs),
        fastest=Stretch(**_stretch(curve, top, top + 1)),
        last=Stretch(**_stretch(curve, last, last + 1)),
        phases=phases,
        lazy_since=None if since is None else curve.epochs[since],
        lazy_velocity=None if since is None else max(velocities[since:]),
        jumps=find_jumps(curve, limits),
        largest_score=max(scores, default=None),
        idle=idle,
        idle_share=sum(one.end - one.start for one in idle) / (curve.epochs[-1] - curve.epochs[0]),
        lazy_limit=limits.lazy,
        jump_limit=limits.jump,
        gain_limit=limits.gain,
    )


def find_phases(curve: KernelCurve, limits: Limits) -> tuple[Phase, ...]:
    """The run cut where the velocity crosses the limit."""
    found = []
    for lazy, group in groupby(enumerate(_lazy(curve, limits)), key=lambda pair: pair[1]):
        indices = [index for index, _ in group]
        first, last = indices[0], indices[-1] + 1
        ranks = {"rank_start": curve.ranks[first], "rank_end": curve.ranks[last]}
        found.append(Phase(**_stretch(curve, first, last), lazy=lazy, **ranks))
    return tuple(found)


def lazy_from(curve: KernelCurve, limits: Limits) -> int | None:
    """The first interval from which on all are lazy; None where those are fewer than two."""
    lazy = _lazy(curve, limits)
    last_moving = max((index for index, still in enumerate(lazy) if not still), default=-1)
    return last_moving + 1 if len(lazy) - last_moving - 1 >= SETTLED else None


def jump_scores(velocities: Sequence[float], limits: Limits) -> list[float]:
    """The robust z-score of each interval but the first: of the logarithm of its velocity over the one before.

    Ratios, since velocities fall by orders of magnitude and the fast start would hide everything later. The deviation
    is taken as at least so large that only a ratio of twice the usual one can reach the limit. Empty for fewer than six
    intervals.
    """
    least = STILL * max(velocities)
    if len(velocities) <= MIN_STEPS or not least:
        return []
    steps = [math.log(max(after, least) / max(before, least)) for before, after in pairwise(velocities)]
    middle = median(steps)
    deviation = NORMAL * median(abs(step - middle) for step in steps)
    return [(step - middle) / max(deviation, math.log(FASTER) / limits.jump) for step in steps]


def find_jumps(curve: KernelCurve, limits: Limits) -> tuple[Jump, ...]:
    """The intervals that are twice as fast as the one before, or more, and have a z-score above the limit."""
    velocities, found = curve.velocities, []
    for index, score in enumerate(jump_scores(velocities, limits), start=1):
        before, after = (max(velocity, STILL * max(velocities)) for velocity in velocities[index - 1 : index + 1])
        if score > limits.jump and after >= FASTER * before:
            found.append(Jump(**_stretch(curve, index, index + 1), ratio=after / before, score=score))
    return tuple(found)


def find_idle(curve: KernelCurve, limits: Limits) -> tuple[Idle, ...]:
    """The longest runs of lazy intervals in which neither accuracy's best rose by more than the limit, all in all.

    The gains of a run are measured against the best accuracies before it, so that many small gains add up. An interval
    without any accuracy is in no run.
    """
    runs: list[tuple[int, int, Best]] = []
    best = highest = _best(curve, -math.inf, curve.epochs[0])
    for index, lazy in enumerate(_lazy(curve, limits)):
        top = _best(curve, *curve.epochs[index : index + 2])
        highest = _larger(highest, top)
        gains = top[0] - best[0], top[1] - best[1]
        if not lazy or top == NONE or best == NONE or max(gains) > limits.gain:
            best = highest
        elif runs and runs[-1][1] == index:
            first, _, before = runs.pop()
            runs.append((first, index + 1, _larger(before, gains)))
        else:
            runs.append((index, index + 1, gains))
    return tuple(
        Idle(**_stretch(curve, first, last), gain_clean=clean, gain_robust=robust)
        for first, last, (clean, robust) in runs
    )


def _best(curve: KernelCurve, after: float, until: float) -> Best:
    best = NONE
    for epoch, accuracies in curve.accuracies:
        best = _larger(best, accuracies) if after < epoch <= until else best
    return best


def _larger(one: Best, other: Best) -> Best:
    return max(one[0], other[0]), max(one[1], other[1])


def _lazy(curve: KernelCurve, limits: Limits) -> list[bool]:
    bound = limits.lazy * max(curve.velocities)
    return [velocity <= bound for velocity in curve.velocities]


def _stretch(curve: KernelCurve, first: int, last: int) -> dict[str, float]:
    """From probe `first` to probe `last`."""
    start, end = curve.epochs[first], curve.epochs[last]
    return {"start": start, "end": end, "velocity": sum(curve.distances[first:last]) / (end - start)}
