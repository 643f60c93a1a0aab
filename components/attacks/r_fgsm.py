"""FGSM after a random step, which leaves the bend of the loss right at the image (Tramèr et al., arXiv 1705.07204)."""

from typing import Literal

from torch import Tensor, nn

from components.attacks.parts.ascent import ascend
from components.attacks.parts.objectives import clean_logits, goal
from components.foundation.params import strict
from components.numerics.random_numbers import Rng, normal
from components.threats.parts.threat import Threat


@strict
class RFgsm:
    """x' = x + α · sign N(0, I) with α = epsilon / 2, then one step of length epsilon - α from x' (their eq. 4).

    In another norm the first step is the steepest of length α along the Gaussian direction. The aim `least_likely`
    makes it their R+Step-LL; that class and the `predicted` one are those of the image, not of x'.
    """

    aim: Literal["true", "predicted", "least_likely"] = "true"  # The class left, or with `least_likely` reached.

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        half = threat.radius / 2
        start = threat.project(images + threat.steepest_step(normal(rng, images), half, images), images)
        objective = goal("cross_entropy", self.aim, labels, clean_logits(model, images), rng)
        return ascend(model, images, start, objective, threat, threat.radius - half, steps=1)
