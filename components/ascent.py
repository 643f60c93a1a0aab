"""Projected gradient ascent on the input: the one loop behind FGSM, PGD, CW and the attacks inside training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from components.noise import Rng, normal
from components.threat import Threat

Objective = Callable[[Tensor], Tensor]
"""Logits [N, K] -> the value to raise for each image, [N]."""

Start = Literal["zero", "uniform", "gaussian"]

# The start of TRADES and its descendants: x + 0.001 · N(0, I) (Zhang et al., arXiv 1901.08573, algorithm 1).
GAUSSIAN_START = 1e-3


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
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
    if start == "uniform":
        return threat.random_start(images, rng)
    if start == "gaussian":
        return threat.project(images + GAUSSIAN_START * normal(rng, images), images)
    return images.clone()


def input_gradient(model: nn.Module, images: Tensor, objective: Objective) -> Tensor:
    """The gradient of the summed objective with respect to `images` alone: no weight gradient is computed or stored."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        return torch.autograd.grad(objective(model(leaf)).sum(), leaf)[0]


def ascend(
    model: nn.Module, images: Tensor, start: Tensor, objective: Objective, threat: Threat, step_size: float, steps: int
) -> Tensor:
    """The last of `steps` iterates x ← Π(x + step), [N, C, H, W], from `start` (Madry et al., arXiv 1706.06083, eq. 2).

    The model runs in evaluation mode, so no batch statistic moves and no image depends on its neighbours. The result is
    detached and asserted to be inside the threat model.
    """
    images_adv = start
    with eval_mode(model):
        for _ in range(steps):
            gradient = input_gradient(model, images_adv, objective)
            images_adv = threat.project(images_adv + threat.steepest_step(gradient, step_size), images)
    return threat.verify(images_adv.detach(), images)
