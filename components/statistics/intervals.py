"""Rates, differences and spreads with 95 % intervals, from per-image outcomes."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

from torch import Tensor

CONFIDENCE = 0.95
POWER = 0.8
"""The share of repetitions in which a difference of the detectable size would be found."""
_TAIL = (1 - CONFIDENCE) / 2
_Z = NormalDist().inv_cdf(1 - _TAIL)
_Z_POWER = NormalDist().inv_cdf(POWER)
# Below this, Wilson's interval can cover clearly less than 95 %; the exact one never does.
FEW = 10


class Paired(NamedTuple):
    """Two models on the same `n` images: accuracy of B minus accuracy of A, its 95 % interval, in [-1, 1], and p.

    `only_a` images are classified right by A alone, `only_b` by B alone; `p` is of the exact McNemar test.
    """

    value: float
    low: float
    high: float
    p: float
    only_a: int
    only_b: int
    n: int


class Spread(NamedTuple):
    """A number over `n` seeds: mean, sample standard deviation, bounds of the 95 % interval of the mean."""

    mean: float
    deviation: float
    low: float
    high: float
    n: int


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
    low = _root(lambda p: _at_most(count - 1, n, p) - (1 - _TAIL), 0, 1) if count else 0.0
    return low, _root(lambda p: _at_most(count, n, p) - _TAIL, 0, 1)


def paired(right_a: Tensor, right_b: Tensor) -> Paired:
    """How B differs from A, from their outcomes on the same images (nonzero is right, [n] each, n of at least 1)."""
    assert right_a.shape == right_b.shape and right_a.numel() > 0, "no pairs"
    a, b, n = right_a.bool(), right_b.bool(), right_a.numel()
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    low, high = tango(only_a, only_b, n)
    return Paired((only_b - only_a) / n, low, high, mcnemar(only_a, only_b), only_a, only_b, n)


def mean_difference(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """The mean of b - a over the same images ([n] each, n of at least 1), and its 95 % interval within [-1, 1].

    The interval is the normal one, z times the standard error of the mean: for scores that are no mere right or wrong.
    """
    assert a.shape == b.shape and a.numel() > 0, "no pairs"
    each = b.double() - a.double()
    half = _Z * float(each.std(correction=0)) / math.sqrt(each.numel())
    value = float(each.mean())
    return value, max(-1.0, value - half), min(1.0, value + half)


def mcnemar(only_a: int, only_b: int) -> float:
    """The two-sided p of the exact test of McNemar (1947, Psychometrika 12): each discordant image is a fair coin.

    Twice the smaller binomial tail, at most 1; summed from logarithms, so 0 only below the smallest double.
    """
    return min(1.0, 2 * _at_most(min(only_a, only_b), only_a + only_b, 0.5))


def tango(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of Tango (1998, Statistics in Medicine 17, 891-908) for a difference of paired shares.

    All δ for which the score test of `share of B - share of A = δ` gives |z| <= 1.96. It holds 0 where McNemar's
    chi-squared is at most 3.84; where the exact p is below 5 % it never does.
    """
    return _lowest(only_a, only_b, n), -_lowest(only_b, only_a, n)


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for their number, in their order: Holm (1979, Scandinavian Journal of Statistics 6)."""
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected


def spread(values: Sequence[float]) -> Spread:
    """The spread of one number over at least two seeds; the interval is Student's, for values that scatter normally."""
    n = len(values)
    assert n > 1, "no spread of a single value"
    mean, deviation = fmean(values), stdev(values)
    half = t_quantile(1 - _TAIL, n - 1) * deviation / math.sqrt(n)
    return Spread(mean, deviation, mean - half, mean + half, n)


def t_quantile(p: float, freedom: int) -> float:
    """The t that Student's distribution with `freedom` (1, 2, ...) degrees stays below with probability p in (0, 1)."""
    # With t = sqrt(freedom) tan(angle), the distribution is a finite sum, and all angles are bounded.
    angle = _root(lambda angle: 2 * p - 1 - _within(angle, freedom), -math.pi / 2, math.pi / 2)
    return math.sqrt(freedom) * math.tan(angle)


def detectable_paired(discordant: float, n: int) -> float:
    """The smallest difference of two accuracies that McNemar's test finds, at 5 % and 80 % power, on n shared images.

    Args:
        discordant: share of images that one model alone classifies right, observed or assumed. Where it is smaller than
            the difference, which it cannot be, it counts as the difference.
        n: number of images.

    Solves n δ² = (z sqrt(ψ) + z' sqrt(ψ - δ²))² of Connor (1987, Biometrics 43, 207-211) with n - 1/δ for n, a
    correction for continuity, as the exact test is stricter than the normal one. 1 where nothing could be found.
    """

    def lacking(delta: float) -> float:
        share = max(discordant, delta)
        return (_Z * math.sqrt(share) + _Z_POWER * math.sqrt(share - delta**2)) ** 2 - delta * (n * delta - 1)

    return _root(lacking, 0, 1)


def detectable_unpaired(share: float, n_a: int, n_b: int) -> float:
    """The same where A and B saw different images, n_a and n_b of them, and A's accuracy is `share`.

    B's is taken to lie towards one half, where its scatter is larger. Normal approximation, as in Fleiss, Levin and
    Paik (2003, Statistical Methods for Rates and Proportions, ch. 4). 1 where nothing could be found.
    """
    sign = 1 if share < 0.5 else -1

    def lacking(delta: float) -> float:
        other = share + sign * delta
        mean = (n_a * share + n_b * other) / (n_a + n_b)
        under_none = _Z * math.sqrt(max(0.0, mean * (1 - mean)) * (1 / n_a + 1 / n_b))
        under_some = share * (1 - share) / n_a + max(0.0, other * (1 - other)) / n_b
        return under_none + _Z_POWER * math.sqrt(under_some) - delta

    farthest = max(share, 1 - share)
    delta = _root(lacking, 0, farthest)
    return delta if lacking(farthest) < 0 else 1.0


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses 0, or the end of [low, high] nearest to that."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _at_most(count: int, n: int, p: float) -> float:
    """The probability of at most `count` hits in `n`, each with probability p; falls with p."""
    hit, miss, all_orders = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    logs = (
        all_orders - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * hit + (n - k) * miss for k in range(count + 1)
    )
    return math.fsum(math.exp(log) for log in logs)


def _lowest(only_a: int, only_b: int, n: int) -> float:
    """The lower bound of Tango's interval."""

    def excess(delta: float) -> float:
        # The most likely share of images that A alone gets right, given that the shares differ by delta.
        linear = (2 * n - only_b + only_a) * delta - only_a - only_b
        root = math.sqrt(max(0.0, linear**2 + 8 * n * only_a * delta * (1 - delta)))
        variance = n * (2 * (root - linear) / (4 * n) + delta * (1 - delta))
        return only_b - only_a - n * delta - _Z * math.sqrt(max(0.0, variance))

    return _root(excess, -1, (only_b - only_a) / n)


def _within(angle: float, freedom: int) -> float:
    """P(|T| <= t), signed as t, at tan(angle) = t / sqrt(freedom): Abramowitz and Stegun (1964), 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    terms = [] if freedom == 1 else [term]
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        terms.append(term)
    return 2 / math.pi * (angle + sine * math.fsum(terms)) if odd else sine * math.fsum(terms)
