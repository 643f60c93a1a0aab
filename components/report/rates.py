"""Rates as the document writes them: from per-image outcomes, rounded to six decimals."""

from dataclasses import asdict
from typing import Any

from torch import Tensor

from components.statistics import rate

Document = dict[str, Any]


def share(outcomes: Tensor) -> Document:
    """The share of nonzero `outcomes`: `value`, its 95 % interval `low` to `high`, and `count` of `n`."""
    return {key: shortened(value) for key, value in asdict(rate(outcomes)).items()}


def mean_of_two(one: Document, other: Document) -> Document:
    """The mean of two rates over the same images; its interval is the mean of the two intervals.

    That interval holds however the two outcomes of an image depend on each other.
    """
    return {**{key: shortened((one[key] + other[key]) / 2) for key in ("value", "low", "high")}, "n": one["n"]}


def shortened(value: Any) -> Any:
    """A float to six decimals, anything else as it is."""
    return round(value, 6) if isinstance(value, float) else value
