"""Weight averaging: a second set of weights that follows the trained ones and is what gets evaluated and published."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from components.foundation.params import Count, Real, strict
from components.models.parts.batch_norm import reestimate

CleanImages = Callable[[int], Iterable[Tensor]]
"""A number of batches -> clean training images [N, C, H, W], for batch norm to be estimated on."""


class Average(Protocol):
    """The averaged `model`, in evaluation mode; `updates` counts what went into it and stands in checkpoints."""

    model: nn.Module
    updates: int

    def update(self, model: nn.Module) -> None: ...

    def end_epoch(self, model: nn.Module, epoch: int, images: CleanImages) -> None: ...


@strict
class Ema:
    """An exponential moving average with this decay per step."""

    name: Literal["ema"]  # Which average of the weights is taken.
    decay: Annotated[Real, Field(gt=0, lt=1)]  # Share of the moving average that one step keeps.

    def of(self, model: nn.Module) -> Average:
        """The average that starts at `model`."""
        return MovingAverage(model, self.decay)


@strict
class Swa:
    """The plain mean of the weights at the end of epoch `start` and of each later one (epochs count from 1).

    Batch norm's statistics are estimated anew on `batches` clean training batches, since the mean of the statistics is
    not the statistics of the mean (Izmailov et al., arXiv 1803.05407, algorithm 1).
    """

    name: Literal["swa"]  # Which average of the weights is taken.
    start: Count  # The first epoch whose last weights are averaged, counted from 1.
    batches: Count  # Clean training batches on which batch norm's statistics are estimated anew.

    def of(self, model: nn.Module) -> Average:
        """The average that starts at `model`."""
        return EpochMean(model, self.start, self.batches)


class MovingAverage:
    """An exponential moving average of a model's parameters and floating-point buffers (Polyak & Juditsky, 1992).

    The first updates use the smaller decay (1 + t) / (10 + t), so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self.decay, self.updates = decay, 0

    def update(self, model: nn.Module) -> None:
        """Moves the average towards `model`'s current state; integer buffers are copied."""
        self.updates += 1
        mix(self.model.state_dict(), model.state_dict(), 1 - min(self.decay, (1 + self.updates) / (10 + self.updates)))

    def end_epoch(self, model: nn.Module, epoch: int, images: CleanImages) -> None:
        """Nothing: every step has been seen."""


class EpochMean:
    """The mean of the weights at the ends of epochs; before the first of them, the model as it is."""

    def __init__(self, model: nn.Module, start: int, batches: int) -> None:
        self.model = copy.deepcopy(model).eval()
        self.start, self.batches, self.updates = start, batches, 0

    def update(self, model: nn.Module) -> None:
        """Nothing: only the ends of epochs count."""

    def end_epoch(self, model: nn.Module, epoch: int, images: CleanImages) -> None:
        """Takes in `model` as it is after `epoch` (counted from 1)."""
        self.updates += epoch >= self.start
        mix(self.model.state_dict(), model.state_dict(), 1 / max(self.updates, 1))
        if self.updates:
            reestimate(self.model, images(self.batches))


@torch.no_grad()
def mix(average: Mapping[str, Tensor], current: Mapping[str, Tensor], share: float) -> None:
    """Moves an averaged state, in place, by `share` of the way to the current one; integer buffers are copied."""
    for name, mean in average.items():
        if mean.is_floating_point():
            mean.lerp_(current[name], share)
        else:
            mean.copy_(current[name])
