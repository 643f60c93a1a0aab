"""Weight averaging: a second set of weights that follows the trained ones and is what gets evaluated and published."""

import copy

import torch
from torch import nn


class MovingAverage:
    """An exponential moving average of a model's parameters and floating-point buffers (Polyak & Juditsky, 1992).

    The first updates use the smaller decay (1 + t) / (10 + t), so that the random start is forgotten at once.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards `model`'s current state; integer buffers are copied."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, current in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(current, share)
            else:
                average.copy_(current)
