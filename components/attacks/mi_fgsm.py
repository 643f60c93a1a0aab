"""The momentum iterative method, whose images transfer well to other models (Dong et al., arXiv 1710.06081)."""

from torch import Tensor, nn

from components.attacks.parts.ascent import Momentum, ascend
from components.attacks.parts.objectives import away_from
from components.foundation.params import Count, NotNegative, PositiveLength, strict
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class MiFgsm:
    """`steps` steps of `step_size` from the image, along gradients accumulated with `decay` (algorithm 1).

    The paper takes 10 steps of epsilon / 10 and decay 1.
    """

    steps: Count  # Steps of the attack.
    step_size: PositiveLength  # Length of one step, a fraction of the pixel range.
    decay: NotNegative  # What the accumulated gradient is multiplied by at each step.

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        rule, objective = Momentum(self.decay), away_from("cross_entropy", labels)
        return ascend(model, images, images, objective, threat, float(self.step_size), self.steps, rule)
