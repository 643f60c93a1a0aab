"""The Carlini-Wagner margin attack under a norm bound, as the adversarial distillation literature runs it."""

from torch import Tensor, nn

from components.attacks.parts.ascent import ascend
from components.foundation.params import Count, NotNegative, PositiveLength, strict
from components.numerics.losses import margin
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class Cw:
    """`steps` steps of `step_size` from the image on the margin loss, which stops counting above `confidence`.

    The objective is that of Carlini & Wagner (arXiv 1608.04644, section V) with signed steps and projection in place
    of a penalty; with the L∞ ball, 30 steps and confidence 50 it is the CW∞ of the MTARD line of work.
    """

    steps: Count  # Steps of the attack.
    step_size: PositiveLength  # Length of one step, a fraction of the pixel range.
    confidence: NotNegative  # The margin above which the loss stops counting.

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        def objective(logits: Tensor) -> Tensor:
            return margin(logits, labels).clamp_max(self.confidence)

        return ascend(model, images, images, objective, threat, float(self.step_size), self.steps)
