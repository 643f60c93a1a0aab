"""The basic iterative method (Kurakin et al., arXiv 1607.02533, section 2.2)."""

from typing import Literal

from torch import Tensor, nn

from components.attacks.parts.kurakin import grey_steps
from components.foundation.params import strict
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class Bim:
    """From the image itself, steps of one grey level up the cross-entropy; their number follows from epsilon.

    In L2 and L1, where a radius is not counted in grey levels, ten steps of an eighth of epsilon, what the rule
    gives for eight grey levels.
    """

    aim: Literal["true", "predicted"] = "true"  # The class that is left: the label, or the model's own.

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        return grey_steps(model, images, labels, self.aim, threat, rng)
