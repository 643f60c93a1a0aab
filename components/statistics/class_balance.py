"""Rates in which every class counts alike, however many images it has."""

import math

from torch import Tensor

from components.statistics.intervals import interval
from components.statistics.outcomes import Interval, Number, NumImages, Share, shortened


class BalancedRate(Interval[Share]):
    """The mean over the classes of the share of images that count, with its 95 % interval."""

    num_classes: Number
    """The classes that have images."""
    n: NumImages


def balanced(outcome: Tensor, labels: Tensor) -> BalancedRate:
    """The mean over the classes of the share of each that is right: outcomes [n], nonzero is right, and classes [n].

    Whoever always gives the same answer has 1 / (number of classes). The interval is put together from those of the
    classes, each at its own distance from the mean: Zou, Huang and Zhang (2009, Computational Statistics and Data
    Analysis 53, 1080-1085), eq. 2 with equal weights.
    """
    assert labels.numel() > 0, "no images"
    each = (outcome[labels == label] for label in range(int(labels.max()) + 1))
    classes = [mine for mine in each if len(mine)]
    counts = [(int(mine.count_nonzero()), mine.numel()) for mine in classes]
    shares = [count / n for count, n in counts]
    bounds = [interval(count, n) for count, n in counts]
    mean, k = sum(shares) / len(shares), len(shares)
    below = math.hypot(*(share - low for share, (low, _) in zip(shares, bounds, strict=True))) / k
    above = math.hypot(*(high - share for share, (_, high) in zip(shares, bounds, strict=True))) / k
    value, low, high = map(shortened, (mean, max(0.0, mean - below), min(1.0, mean + above)))
    return BalancedRate(value=value, low=low, high=high, num_classes=k, n=labels.numel())
