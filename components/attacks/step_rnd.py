"""The one-step random-class attack (Kurakin et al., arXiv 1611.01236, section 3)."""

from torch import Tensor, nn

from components.attacks.parts.kurakin import one_step
from components.foundation.params import strict
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class StepRnd:
    """One step of length epsilon that lowers the cross-entropy of a wrong class, each drawn with the same chance."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        return one_step(model, images, labels, "random", threat, rng)
