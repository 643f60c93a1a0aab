"""Projected gradient descent, as attackers call the ascent (Madry et al., arXiv 1706.06083, section 2.1)."""

from functools import partial
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.ascent import Start, ascend, eval_mode, start_point
from components.losses import cross_entropy, margin
from components.noise import Rng
from components.params import STRICT, Fractional
from components.threat import Threat

LOSSES = {"cross_entropy": cross_entropy, "margin": margin}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pgd:
    """`steps` steps of `step_size` from `start`, `restarts` times; of each image the most harmful is kept."""

    steps: int
    step_size: Fractional
    start: Start
    loss: Literal["cross_entropy", "margin"]
    restarts: int

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.step_size <= 0:
            raise ValueError(f"got {self}, want steps and restarts of at least 1 and a positive step_size")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        objective = partial(LOSSES[self.loss], labels=labels)
        best, best_margin = images, None
        for _ in range(self.restarts):
            start = start_point(self.start, images, threat, rng)
            images_adv = ascend(model, images, start, objective, threat, float(self.step_size), self.steps)
            if self.restarts == 1:
                return images_adv
            # Compared by margin, whatever the loss: its sign is what decides whether the image is fooled.
            with eval_mode(model), torch.no_grad():
                reached = margin(model(images_adv), labels)
            better = reached > best_margin if best_margin is not None else torch.ones_like(labels, dtype=torch.bool)
            best = torch.where(better.view(-1, 1, 1, 1), images_adv, best)
            best_margin = torch.where(better, reached, best_margin) if best_margin is not None else reached
        return best
