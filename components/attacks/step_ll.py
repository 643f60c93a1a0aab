"""The one-step least-likely-class attack (Kurakin et al., arXiv 1611.01236, section 3)."""

from torch import Tensor, nn

from components.attacks.parts.kurakin import one_step
from components.foundation.params import strict
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class StepLl:
    """One step of length epsilon that lowers the cross-entropy of the class the model finds least likely."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        return one_step(model, images, labels, "least_likely", threat, rng)
