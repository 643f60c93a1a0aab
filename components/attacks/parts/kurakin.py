"""What the attacks of adversarial training at scale share: one step of epsilon, or steps of one grey level, and an aim.

Kurakin et al., arXiv 1607.02533, section 2, and arXiv 1611.01236, section 3. The radius may differ between images.
"""

from torch import Tensor, nn

from components.attacks.parts.ascent import GREY_LEVEL, GreyLevelSteps, ascend, grey_level_steps, plain
from components.attacks.parts.objectives import Aim, clean_logits, goal
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


def one_step(model: nn.Module, images: Tensor, labels: Tensor, aim: Aim, threat: Threat, rng: Rng) -> Tensor:
    """One step as long as the radius along the gradient of the cross-entropy, from the image itself, [N, C, H, W]."""

    # The one pass is through the clean image, so its logits are there already.
    def objective(logits: Tensor) -> Tensor:
        return goal("cross_entropy", aim, labels, logits.detach, rng)(logits)

    return ascend(model, images, images, objective, threat, threat.reach, steps=1)


def grey_steps(model: nn.Module, images: Tensor, labels: Tensor, aim: Aim, threat: Threat, rng: Rng) -> Tensor:
    """As many steps of one grey level as `grey_level_steps` says of each image's radius, [N, C, H, W].

    An image of small radius stops and waits for the others: how many have stopped is not asked of the device.
    """
    objective = goal("cross_entropy", aim, labels, clean_logits(model, images), rng)
    rule = GreyLevelSteps(threat.reach) if isinstance(threat.reach, Tensor) else plain
    return ascend(model, images, images, objective, threat, GREY_LEVEL, grey_level_steps(threat.epsilon), rule)
