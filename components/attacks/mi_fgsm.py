"""The momentum iterative method, whose images transfer well to other models (Dong et al., arXiv 1710.06081)."""

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.attacks.parts.ascent import Momentum, ascend
from components.attacks.parts.objectives import away_from
from components.foundation.params import STRICT, Fractional, Real
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MiFgsm:
    """`steps` steps of `step_size` from the image, along gradients accumulated with `decay` (algorithm 1).

    The paper takes 10 steps of epsilon / 10 and decay 1.
    """

    steps: int
    step_size: Fractional
    decay: Real

    def __post_init__(self) -> None:
        if self.steps < 1 or self.step_size <= 0 or self.decay < 0:
            raise ValueError(f"got {self}, want steps of at least 1, a positive step_size, a decay of at least 0")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        rule, objective = Momentum(self.decay), away_from("cross_entropy", labels)
        return ascend(model, images, images, objective, threat, float(self.step_size), self.steps, rule)
