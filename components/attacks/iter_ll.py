"""The iterative least-likely-class method (Kurakin et al., arXiv 1607.02533, section 2.3)."""

from torch import Tensor, nn

from components.attacks.parts.kurakin import grey_steps
from components.foundation.params import strict
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class IterLl:
    """The steps of the basic iterative method, towards the class the model finds least likely for the clean image."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        return grey_steps(model, images, labels, "least_likely", threat, rng)
