"""Projected gradient ascent on the input: the one loop behind FGSM, PGD, CW and the attacks inside training."""

# torch leaves the types of some functions open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from fractions import Fraction
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from components.numerics.losses import TINY
from components.numerics.random_numbers import Rng, normal
from components.threats.parts.threat import Threat

Objective = Callable[[Tensor], Tensor]
"""Logits [N, K] -> the value to raise for each image, [N]."""

StepRule = Callable[[Tensor], Tensor]
"""The gradient at an iterate -> the direction to step along, [N, C, H, W]; it may remember earlier gradients."""

Start = Literal["zero", "uniform", "gaussian"]

# The start of TRADES and its descendants: x + 0.001 · N(0, I) (Zhang et al., arXiv 1901.08573, algorithm 1).
GAUSSIAN_START = 1e-3

# The step of the basic iterative method.
GREY_LEVEL = 1 / 255


@contextmanager
def eval_mode(model: nn.Module) -> Generator[None, None, None]:
    """Evaluation mode inside the block; every module's own mode is restored after it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def start_point(start: Start, images: Tensor, threat: Threat, rng: Rng) -> Tensor:
    """Where an attack begins, [N, C, H, W], inside the threat model."""
    match start:
        case "uniform":
            return threat.random_start(images, rng)
        case "gaussian":
            return threat.project(images + GAUSSIAN_START * normal(rng, images), images)
        case "zero":
            return images.clone()


def first_look(start: Start, point: Tensor, images: Tensor, threat: Threat) -> Tensor | None:
    """Where an attack that starts at `point` takes the first gradient of a divergence, if not there.

    A gaussian start is so near that reduced precision rounds its divergence away, and a gradient there would be chance.
    Near the image that gradient grows in proportion to the distance, so the same direction is found farther out on the
    line through both: by two spacings of the numbers just above 1, where the start itself is 0.001 away.
    """
    kind = images.device.type
    # Autocast leaves float64 as it is.
    if start != "gaussian" or not torch.is_autocast_enabled(kind) or images.dtype == torch.float64:
        return None
    resolved = max(GAUSSIAN_START, 2 * torch.finfo(torch.get_autocast_dtype(kind)).eps)
    return threat.project(images + resolved / GAUSSIAN_START * (point - images), images)


def input_gradient(model: nn.Module, images: Tensor, objective: Objective) -> Tensor:
    """The gradient of the summed objective with respect to `images` alone: no weight gradient is computed or stored."""
    return look(model, images, objective).gradient


class View(NamedTuple):
    """What a pass there and back shows: the gradient [N, C, H, W], the objective's values [N] and the logits [N, K]."""

    gradient: Tensor
    values: Tensor
    logits: Tensor


def look(model: nn.Module, images: Tensor, objective: Objective, keep_graph: bool = False) -> View:
    """The input gradient at `images` and what was computed on the way, all detached.

    With `keep_graph` values and logits keep their graphs, for a loss that they are part of.
    """
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = model(leaf)
        values = objective(logits)
        gradient = torch.autograd.grad(values.sum(), leaf, retain_graph=keep_graph)[0]
        # A step along what is not a number would leave no image at all.
        gradient = gradient.nan_to_num(0.0)
        return View(gradient, values, logits) if keep_graph else View(gradient, values.detach(), logits.detach())


def grey_level_steps(epsilon: Fraction) -> int:
    """How many steps of one grey level reach the edge of the ball and go on a little: min(ε + 4, 1.25 ε) for ε in grey
    levels, rounded down, at least 1 (Kurakin et al., arXiv 1607.02533, section 2.2)."""
    levels = epsilon * 255
    return max(1, math.floor(min(levels + 4, levels * 5 / 4)))


class GreyLevelSteps:
    """The step rule under which each image stops after `grey_level_steps` of its own radius ([N, 1, 1, 1]).

    One object serves one ascent, whose steps it counts.
    """

    def __init__(self, radii: Tensor) -> None:
        # A radius that is a whole number of grey levels must not lose a step to rounding.
        levels = radii * 255 + 1e-3
        self.left = torch.minimum(levels + 4, levels * 5 / 4).floor_().clamp_min_(1)

    def __call__(self, gradient: Tensor) -> Tensor:
        self.left = self.left - 1
        return torch.where(self.left >= 0, gradient, 0)


def plain(gradient: Tensor) -> Tensor:
    """The step rule that follows the gradient itself."""
    return gradient


class Momentum:
    """The step rule of MI-FGSM: g ← decay · g + ∇/‖∇‖₁, each image for itself (Dong et al., arXiv 1710.06081, eq. 6).

    One object serves one ascent, whose gradients it accumulates.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.direction = decay, None

    def __call__(self, gradient: Tensor) -> Tensor:
        unit = gradient / gradient.abs().sum((1, 2, 3), keepdim=True).clamp_min(TINY)
        self.direction = unit if self.direction is None else self.decay * self.direction + unit
        return self.direction


def ascend(
    model: nn.Module,
    images: Tensor,
    start: Tensor,
    objective: Objective,
    threat: Threat,
    step_size: float | Tensor,
    steps: int,
    rule: StepRule = plain,
    looked: Tensor | None = None,
) -> Tensor:
    """The last of `steps` iterates x ← Π(x + step), [N, C, H, W], from `start` (Madry et al., arXiv 1706.06083, eq. 2).

    Each step is the steepest of its length along the direction that `rule` makes of the gradient; the first gradient is
    that at `looked`, if it is given (see `first_look`), and the step still leaves from `start`. The model runs in
    evaluation mode, so no batch statistic moves and no image depends on its neighbours. The result is detached and
    asserted to be inside the threat model.
    """
    images_adv = start
    with eval_mode(model):
        for step in range(steps):
            at = images_adv if step or looked is None else looked
            direction = rule(input_gradient(model, at, objective))
            images_adv = threat.project(images_adv + threat.steepest_step(direction, step_size, images_adv), images)
    return threat.verify(images_adv.detach(), images)
