"""What an attack is: the contract of every member of this family."""

from typing import Protocol

from torch import Tensor, nn

from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


class Attack(Protocol):
    """Images [N, C, H, W] in [0, 1] and labels [N] -> the same shape, inside the ball of `threat` and [0, 1]."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor: ...
