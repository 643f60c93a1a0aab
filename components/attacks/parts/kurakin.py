"""What the attacks of adversarial training at scale share: one step of epsilon, or steps of one grey level, and an aim.

Kurakin et al., arXiv 1607.02533, section 2, and arXiv 1611.01236, section 3. The radius may differ between images.
"""

from torch import Tensor, nn

from components.attacks.parts.ascent import GREY_LEVEL, GreyLevelSteps, ascend, grey_level_steps, plain
from components.attacks.parts.objectives import Aim, clean_logits, goal
from components.foundation.params import Ratio
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat

# The usual radius in L∞, in grey levels.
USUAL = 8


def one_step(model: nn.Module, images: Tensor, labels: Tensor, aim: Aim, threat: Threat, rng: Rng) -> Tensor:
    """One step as long as the radius along the gradient of the cross-entropy, from the image itself, [N, C, H, W]."""

    # The one pass is through the clean image, so its logits are there already.
    def objective(logits: Tensor) -> Tensor:
        return goal("cross_entropy", aim, labels, logits.detach, rng)(logits)

    return ascend(model, images, images, objective, threat, threat.reach, steps=1)


def grey_steps(model: nn.Module, images: Tensor, labels: Tensor, aim: Aim, threat: Threat, rng: Rng) -> Tensor:
    """Steps to the edge of the ball and a quarter further, [N, C, H, W]; `num_steps` says how many.

    Each is one grey level long in L∞, else an eighth of each image's radius. In L∞ an image of small radius stops and
    waits for the others: how many have stopped is not asked of the device.
    """
    objective, rule, step_size = goal("cross_entropy", aim, labels, clean_logits(model, images), rng), plain, GREY_LEVEL
    if not threat.norm.by_pixel:
        step_size = threat.reach / USUAL
    elif isinstance(threat.reach, Tensor):
        rule = GreyLevelSteps(threat.reach)
    return ascend(model, images, images, objective, threat, step_size, num_steps(threat), rule)


def num_steps(threat: Threat) -> int:
    """How many steps `grey_steps` takes: `grey_level_steps` of epsilon, or, where sizes add up over pixels, ten.

    Ten is what that rule gives for eight grey levels. Where a radius is not counted in grey levels, a number of steps
    that grows with it would mean nothing: 3,064 for a radius of 12.
    """
    return grey_level_steps(threat.epsilon if threat.norm.by_pixel else Ratio(USUAL, 255))
