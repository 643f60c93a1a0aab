"""The Carlini-Wagner margin attack under a norm bound, as the adversarial distillation literature runs it."""

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.attacks.parts.ascent import ascend
from components.foundation.params import STRICT, Fractional, Real
from components.numerics.losses import margin
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cw:
    """`steps` steps of `step_size` from the image on the margin loss, which stops counting above `confidence`.

    The objective is that of Carlini & Wagner (arXiv 1608.04644, section V) with signed steps and projection in place
    of a penalty; with the L∞ ball, 30 steps and confidence 50 it is the CW∞ of the MTARD line of work.
    """

    steps: int
    step_size: Fractional
    confidence: Real

    def __post_init__(self) -> None:
        if self.steps < 1 or self.step_size <= 0 or self.confidence < 0:
            raise ValueError(f"got {self}, want steps of at least 1, a positive step_size, a confidence of at least 0")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        def objective(logits: Tensor) -> Tensor:
            return margin(logits, labels).clamp_max(self.confidence)

        return ascend(model, images, images, objective, threat, float(self.step_size), self.steps)
