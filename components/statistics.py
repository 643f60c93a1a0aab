"""Rates with 95 % intervals, from per-image outcomes."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2
_Z = NormalDist().inv_cdf(1 - _TAIL)
# Below this, Wilson's interval can cover clearly less than 95 %; the exact one never does.
FEW = 10


@dataclass(frozen=True)
class Rate:
    """A share of images: `count` of `n`, its `value` and the bounds of its 95 % interval, all in [0, 1]."""

    value: float
    low: float
    high: float
    count: int
    n: int


def rate(outcomes: Tensor) -> Rate:
    """The share of nonzero `outcomes` (any shape, at least one element) with its 95 % interval."""
    count, n = int(outcomes.count_nonzero()), outcomes.numel()
    low, high = interval(count, n)
    return Rate(count / n, low, high, count, n)


def interval(count: int, n: int) -> tuple[float, float]:
    """The 95 % interval of `count` in `n`: exact (Clopper-Pearson) below ten hits or ten misses, else Wilson's."""
    assert 0 <= count <= n and n > 0, f"no rate: {count} of {n}"
    return clopper_pearson(count, n) if min(count, n - count) < FEW else wilson(count, n)


def wilson(count: int, n: int) -> tuple[float, float]:
    """The score interval of Wilson (1927, JASA 22): all p with |count/n - p| <= z sqrt(p (1 - p) / n)."""
    share, square = count / n, _Z**2 / n
    center = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    return max(0.0, center - half), min(1.0, center + half)


def clopper_pearson(count: int, n: int) -> tuple[float, float]:
    """The exact interval of Clopper and Pearson (1934, Biometrika 26): all p with both binomial tails above 2.5 %."""
    if 2 * count > n:
        # Misses instead of hits: the tails then have few terms and no cancellation.
        low, high = clopper_pearson(n - count, n)
        return 1 - high, 1 - low
    low = _solve(count - 1, n, 1 - _TAIL) if count else 0.0
    return low, _solve(count, n, _TAIL)


def _solve(count: int, n: int, target: float) -> float:
    """The p at which at most `count` hits in `n` have probability `target`; that probability falls with p."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(count, n, middle) > target else (low, middle)
    return (low + high) / 2


def _at_most(count: int, n: int, p: float) -> float:
    hit, miss, all_orders = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    logs = (
        all_orders - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * hit + (n - k) * miss for k in range(count + 1)
    )
    return math.fsum(math.exp(log) for log in logs)
