"""The paired bootstrap over images: the same resampled images for every model, so that their differences have
intervals."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from components.statistics.intervals import CONFIDENCE

RESAMPLES = 2000
_TAIL = (1 - CONFIDENCE) / 2


class PerImage(NamedTuple):
    """A number for each image, [n], and which images it is a mean over, bool [n]."""

    values: Tensor
    chosen: Tensor

    @classmethod
    def of(cls, values: Tensor, chosen: Tensor | None = None) -> "PerImage":
        """The values of any dtype, on the CPU in double precision; by default over all images."""
        numbers = values.detach().cpu().double()
        mask = torch.ones_like(numbers, dtype=torch.bool) if chosen is None else chosen.detach().cpu().bool()
        return cls(numbers.where(mask, 0.0), mask)

    @property
    def n(self) -> int:
        """How many images the mean is over."""
        return int(self.chosen.sum())

    @property
    def mean(self) -> float:
        """The mean over the chosen images, of which there must be one."""
        return float(self.values.sum() / self.n)


def resampled(n: int, seed: int, resamples: int = RESAMPLES) -> Tensor:
    """How often each of `n` images is drawn in each resample of n images, float64 [resamples, n]."""
    drawn = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())


def means(measure: PerImage, counts: Tensor) -> Tensor:
    """The mean in each resample, [resamples]; NaN in one that holds no chosen image."""
    return (counts @ measure.values) / (counts @ measure.chosen.double())


def percentile_interval(values: Tensor) -> tuple[float, float]:
    """The middle 95 % of resampled values, of those that are numbers; NaN where none is."""
    kept = values[~values.isnan()]
    if not len(kept):
        return math.nan, math.nan
    return float(kept.quantile(_TAIL)), float(kept.quantile(1 - _TAIL))


def rank_intervals(scores: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """The 95 % interval of each one's place by its score, largest first, from scores in the same resamples.

    A place is one more than how many have a larger score, so those that are equal share the best place.
    """
    table = torch.stack(list(scores.values()))
    places = 1 + (table[None] > table[:, None]).sum(1)
    low, high = (places.double().quantile(share, dim=1, interpolation="nearest") for share in (_TAIL, 1 - _TAIL))
    return {name: (int(low[place]), int(high[place])) for place, name in enumerate(scores)}
