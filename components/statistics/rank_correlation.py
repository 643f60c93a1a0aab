"""Spearman's rank correlation with an interval, for a few pairs of numbers."""

import math
import random
from collections.abc import Sequence
from statistics import fmean

import torch

from components.statistics.bootstrap import RESAMPLES, percentile_interval


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1, smallest first; equal values share the mean of their ranks."""
    order = sorted(values)
    return [fmean(place for place, other in enumerate(order, start=1) if other == value) for value in values]


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation (1904), which is Pearson's of the ranks; NaN where one side is all the same."""
    assert len(one) == len(other) > 1, "no pairs"
    a, b = ranks(one), ranks(other)
    middle = (len(a) + 1) / 2
    together = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    alone = sum((x - middle) ** 2 for x in a), sum((y - middle) ** 2 for y in b)
    return together / math.sqrt(alone[0] * alone[1]) if min(alone) > 0 else math.nan


def spearman_interval(
    one: Sequence[float], other: Sequence[float], seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95 % percentile interval of `spearman` over resampled pairs.

    Resamples in which one side is all the same have no correlation and do not count. With few pairs it is wide, and
    rather too narrow all the same.
    """
    draw = random.Random(seed)
    found = list[float]()
    for _ in range(resamples):
        pairs = draw.choices(list(zip(one, other, strict=True)), k=len(one))
        found.append(spearman([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    return percentile_interval(torch.tensor(found, dtype=torch.float64))
