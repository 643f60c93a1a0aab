"""What is derived from per-image outcomes: rates with intervals, worst cases, the hardest images; to six decimals."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from components.statistics.documents import Document
from components.statistics.intervals import rate

Outcomes = Mapping[str, Tensor]
"""The tensors [n] of an outcomes file by name: nonzero is right, and `labels` are the true classes."""
Share = Annotated[float, Field(ge=0, le=1)]
Difference = Annotated[float, Field(ge=-1, le=1)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=1)]
Epsilon = Annotated[str, Field(pattern="^[0-9]+(/[0-9]+)?$")]

# As many as a person looks at.
SHOWN = 12


class Interval(Document):
    """A value between the bounds of its 95 % interval, as shares of 1."""

    value: float
    """The value; times 100 it is percent, or points where it is a difference."""
    low: float
    """The lower bound."""
    high: float
    """The upper bound."""


class Rate(Interval):
    """The share of images that count, with its 95 % interval."""

    value: Share
    """`count` / `n`."""
    low: Share
    """The lower bound."""
    high: Share
    """The upper bound."""
    count: Count
    """How many images count."""
    n: Number
    """How many images there are."""


class AtEpsilon(Document):
    """What was measured at one size of attack."""

    epsilon: Epsilon
    """The size, an exact fraction of the pixel range."""


class RateAt(Rate, AtEpsilon):
    """A rate under an attack of this size."""


class Mean(Interval):
    """The mean of two rates over the same images; its interval is the mean of the two intervals."""

    value: Share
    """The mean of the two values."""
    low: Share
    """The lower bound."""
    high: Share
    """The upper bound."""
    n: Number
    """How many images there are."""


class KeptBy(Document):
    """How many images a number of models keeps."""

    models: Count
    """The number of models that keep an image in the worst case."""
    count: Count
    """The number of images that exactly so many models keep."""


class HardImage(Document):
    """An image, and who stands up to attacks on it."""

    index: Count
    """Its place in the test split."""
    class_: str
    """Its true class."""
    survived: Count
    """The number of attacks, over all models, that leave it right."""
    attacks: Number
    """The number of attacks over all models."""
    clean: list[str]
    """The models that know it without an attack."""
    worst_case: list[str]
    """The models that keep it under every attack."""


class Hardest(Document):
    """What is hard about the test split."""

    kept_by: list[KeptBy]
    """The number of images that 0, 1, 2, … models keep in the worst case."""
    images: list[HardImage]
    """The images that survive the smallest share of attacks, hardest first."""


def share(outcomes: Tensor) -> Rate:
    """The share of nonzero `outcomes` with its 95 % interval."""
    found = rate(outcomes)
    value, low, high = (shortened(number) for number in (found.value, found.low, found.high))
    return Rate(value=value, low=low, high=high, count=found.count, n=found.n)


def bare(found: Rate) -> Rate:
    """A rate without what a document says beside it, such as its attack."""
    return Rate(value=found.value, low=found.low, high=found.high, count=found.count, n=found.n)


def share_at(epsilon: str, outcomes: Tensor) -> RateAt:
    """The share of nonzero `outcomes` under an attack of size `epsilon`."""
    return RateAt(epsilon=epsilon, **dict(share(outcomes)))


def mean_of_two(one: Rate, other: Rate) -> Mean:
    """The mean of two rates over the same images; its interval is the mean of the two intervals.

    That interval holds however the two outcomes of an image depend on each other.
    """
    value, low, high = (shortened((getattr(one, key) + getattr(other, key)) / 2) for key in ("value", "low", "high"))
    return Mean(value=value, low=low, high=high, n=one.n)


def shortened(value: float) -> float:
    """A number to six decimals."""
    return round(value, 6)


def six_digits(value: float) -> float:
    """A number to six digits, which small ones keep too."""
    return float(f"{value:.6g}")


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
    classes: Sequence[str], labels: Tensor, runs: Mapping[str, Sequence[Tensor]], outcomes: Outcomes
) -> Hardest | None:
    """What is hard: how many images k models keep in the worst case, and the hardest images.

    Args:
        classes: their names.
        labels: the true classes [n].
        runs: per attacked model, the outcomes [n] of each attack (a cascade counts as one).
        outcomes: holds `<model>/clean` and `<model>/worst_case` [n] of these models.

    An image's place follows from the share of attacks it survives over all models, then from how many models keep it,
    then from how many know it clean. None where nothing was attacked.
    """
    if not runs:
        return None
    survived = torch.stack([run != 0 for attacks in runs.values() for run in attacks])
    clean = torch.stack([outcomes[f"{model}/clean"] != 0 for model in runs])
    worst_case = torch.stack([outcomes[f"{model}/worst_case"] != 0 for model in runs])
    kept, order = worst_case.sum(0), torch.arange(len(labels))
    for key in (clean.sum(0), kept, survived.sum(0)):
        order = order[torch.argsort(key[order], stable=True)]
    names, places = list(runs), [int(place) for place in order[:SHOWN]]
    images = [
        HardImage(
            index=place,
            class_=classes[int(labels[place])],
            survived=int(survived[:, place].sum()),
            attacks=len(survived),
            clean=_named(names, clean[:, place]),
            worst_case=_named(names, worst_case[:, place]),
        )
        for place in places
    ]
    counts = [KeptBy(models=k, count=int((kept == k).sum())) for k in range(len(names) + 1)]
    return Hardest(kept_by=counts, images=images)


def _named(names: Sequence[str], chosen: Tensor) -> list[str]:
    return [name for name, one in zip(names, chosen, strict=True) if bool(one)]
