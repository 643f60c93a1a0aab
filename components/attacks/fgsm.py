"""The fast gradient sign method (Goodfellow et al., arXiv 1412.6572, section 4)."""

from typing import Literal

from torch import Tensor, nn

from components.attacks.parts.kurakin import one_step
from components.foundation.params import strict
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class Fgsm:
    """One step of length epsilon along the gradient of the cross-entropy, from the image itself.

    With the aim `predicted` it leaves the model's own class instead of the label, so that no label leaks (Kurakin et
    al., arXiv 1611.01236, section 4.2).

    >>> images_adv = Fgsm()(model, images, labels, threat, rng)
    >>> bool((threat.size(images_adv - images) <= threat.radius + 1e-6).all())
    True
    """

    aim: Literal["true", "predicted"] = "true"  # The class that is left: the label, or the model's own.

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        return one_step(model, images, labels, self.aim, threat, rng)
