"""What is derived from per-image outcomes: rates with intervals, worst cases, the hardest images; to six decimals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Generic, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from components.statistics.documents import Document
from components.statistics.intervals import interval

Outcomes = Mapping[str, Tensor]
"""The tensors [n] of an outcomes file by name: nonzero is right, and `labels` are the true classes."""
# What a field's type says of it needs no text at the field.
Share = Annotated[float, Field(ge=0, le=1)]
Confidence = Annotated[Share, Field(description="The level of the intervals.")]
Difference = Annotated[float, Field(ge=-1, le=1)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=1)]
NumImages = Annotated[Number, Field(description="The number of images.")]
Epsilon = Annotated[str, Field(pattern="^[0-9]+(/[0-9]+)?$", description="An exact fraction of the pixel range.")]

T = TypeVar("T", bound=float)
# As many as a person looks at.
SHOWN = 12


class Interval(Document, Generic[T]):
    """A value between the bounds of its 95 % interval, as shares of 1."""

    value: T
    """Times 100 it is percent, or points where it is a difference."""
    low: T
    high: T


class Rate(Interval[Share]):
    """The share of images that count, `count` of `n`, with its 95 % interval."""

    count: Count
    n: NumImages


class AtEpsilon(Document):
    """What was measured at one size of attack."""

    epsilon: Epsilon


class RateAt(Rate, AtEpsilon):
    """A rate under an attack of this size."""


class MeanRate(Interval[Share]):
    """The mean of two rates over the same images; its interval is the mean of the two intervals."""

    n: NumImages


class KeptBy(Document):
    """How many images, `count`, exactly 0, 1, 2, … of the counted `models` keep in the worst case."""

    models: Count
    count: Count


class HardImage(Document):
    """An image, and who stands up to attacks on it."""

    index: Count
    """Its place in the test split."""
    class_: str
    survived: Count
    """The number of attacks, over the counted models, that leave it right."""
    attacks: Number
    """The number of attacks over the counted models."""
    clean: list[str]
    """The models that know it without an attack."""
    worst_case: list[str]
    """The models that keep it under every attack."""
    falls_at: dict[str, Epsilon] = Field(default={})
    """Model to the smallest size of the ε curve at which it is wrong; without those that stand at every size."""


class Hardest(Document):
    """What is hard about the test split."""

    models: list[str] = Field(default=[])
    """The models that count: those that keep an image in the worst case, or all where none does."""
    kept_by: list[KeptBy]
    images: list[HardImage]
    """The images that survive the fewest attacks on the models that count, hardest first."""


def shortened(value: float) -> float:
    """A number to six decimals."""
    return round(value, 6)


def six_digits(value: float) -> float:
    """A number to six digits, which small ones keep too."""
    return float(f"{value:.6g}")


def share(outcomes: Tensor, rounded: Callable[[float], float] = shortened) -> Rate:
    """The share of nonzero `outcomes` (any shape, at least one element) with its 95 % interval."""
    count, n = int(outcomes.count_nonzero()), outcomes.numel()
    low, high = interval(count, n)
    value, low, high = map(rounded, (count / n, low, high))
    return Rate(value=value, low=low, high=high, count=count, n=n)


def shares_at(keys: Mapping[str, str], outcomes: Outcomes) -> list[RateAt]:
    """The shares of nonzero outcomes by size: `keys` are their names by epsilon; what was not measured is left out."""
    return [RateAt(epsilon=e, **dict(share(outcomes[key]))) for e, key in keys.items() if key in outcomes]


def by_class(classes: Sequence[str], labels: Tensor) -> dict[str, Tensor]:
    """For each class that has images, which of the images are its own, bool [n]."""
    masks = {name: labels == index for index, name in enumerate(classes)}
    return {name: mask for name, mask in masks.items() if mask.any()}


def mean_of_two(one: Rate, other: Rate) -> MeanRate:
    """The mean of two rates over the same images; its interval is the mean of the two intervals.

    That interval holds however the two outcomes of an image depend on each other.
    """
    value, low, high = (shortened((getattr(one, key) + getattr(other, key)) / 2) for key in ("value", "low", "high"))
    return MeanRate(value=value, low=low, high=high, n=one.n)


def worst(parts: Iterable[Tensor]) -> Tensor:
    """1 for each image that is right in every part, uint8 [n]."""
    return torch.stack([part != 0 for part in parts]).all(0).to(torch.uint8)


def attacked(model: str, attacks: Iterable[str], cascade: Iterable[str], outcomes: Outcomes) -> dict[str, Tensor]:
    """A model's outcomes [n] under each attack that it met on every image, and after the whole `cascade`, if it ran."""
    found = {attack: outcomes[key] for attack in attacks if (key := f"{model}/{attack}") in outcomes}
    steps = [f"{model}/cascade/{attack}" for attack in cascade]
    if steps and all(step in outcomes for step in steps):
        found["cascade"] = worst(outcomes[step] for step in steps)
    return found


def hardest(
    classes: Sequence[str],
    labels: Tensor,
    runs: Mapping[str, Sequence[Tensor]],
    outcomes: Outcomes,
    curve: Sequence[str] = (),
) -> Hardest | None:
    """What is hard: how many images k models keep in the worst case, and the hardest images.

    Args:
        classes: their names.
        labels: the true classes [n].
        runs: per attacked model, the outcomes [n] of each attack (a cascade counts as one).
        outcomes: holds `<model>/clean` and `<model>/worst_case` [n] of these models, and `<model>/curve/<place>` for
            each place of `curve`, as far as they were measured.
        curve: the epsilons of the ε curve.

    An image's place follows from the share of attacks it survives, then from how many points of the curves it stands
    at, then from how many models keep it, then from how many know it clean. A model that keeps no image tells none from
    another: it does not count, unless no model keeps one. None where nothing was attacked.
    """
    if not runs:
        return None
    right = {model: {name: outcomes[f"{model}/{name}"] != 0 for name in ("clean", "worst_case")} for model in runs}
    counted = [model for model in runs if right[model]["worst_case"].any()] or list(runs)
    survived = torch.stack([run != 0 for model in counted for run in runs[model]])
    clean, kept = (torch.stack([right[model][name] for model in counted]).sum(0) for name in ("clean", "worst_case"))
    points = {model: _curve(model, curve, outcomes) for model in runs}
    stands = sum((point.long() for model in counted for point in points[model].values()), torch.zeros_like(kept))
    order = torch.arange(len(labels))
    for key in (clean, kept, stands, survived.sum(0)):
        order = order[torch.argsort(key[order], stable=True)]
    images = [
        HardImage(
            index=place,
            class_=classes[int(labels[place])],
            survived=int(survived[:, place].sum()),
            attacks=len(survived),
            clean=[model for model in runs if right[model]["clean"][place]],
            worst_case=[model for model in runs if right[model]["worst_case"][place]],
            falls_at={m: falls[0] for m in runs if (falls := [e for e, ok in points[m].items() if not ok[place]])},
        )
        for place in map(int, order[:SHOWN])
    ]
    counts = [KeptBy(models=k, count=int((kept == k).sum())) for k in range(len(counted) + 1)]
    return Hardest(models=counted, kept_by=counts, images=images)


def _curve(model: str, epsilons: Sequence[str], outcomes: Outcomes) -> dict[str, Tensor]:
    """Which images [n] a model has right at each measured epsilon of the curve, rising."""
    keys = {epsilon: f"{model}/curve/{place}" for place, epsilon in enumerate(epsilons)}
    return {e: outcomes[keys[e]] != 0 for e in sorted(keys, key=Fraction) if keys[e] in outcomes}
