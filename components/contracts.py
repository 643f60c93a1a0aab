"""What loops ask of family members: an attack's images, a method's loss with its parts, the state of what remembers."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from components.noise import Rng
from components.threat import Threat


class Loss(NamedTuple):
    """A scalar ready for backward, and detached named scalars to log; the loop averages them over the epoch."""

    total: Tensor
    parts: dict[str, Tensor]


class Attack(Protocol):
    """Images [N, C, H, W] in [0, 1] and labels [N] -> the same shape, inside the ball of `threat` and [0, 1]."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor: ...


class Method(Protocol):
    """Images [N, C, H, W] in [0, 1] and labels [N] -> the loss; modes and `.grad` are left as found."""

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Loss: ...


class Measure(Protocol):
    """The model after an epoch -> named numbers, among them the one that selects the best epoch."""

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float]: ...


@runtime_checkable
class Stateful(Protocol):
    """Something whose next answer depends on its past: checkpoints hold its `state_dict`, so that resume is exact."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@runtime_checkable
class EpochAware(Protocol):
    """A method that changes with the epochs, which are counted from 0."""

    def begin_epoch(self, epoch: int) -> None: ...


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of images classified right, a detached scalar."""
    return (logits.detach().argmax(1) == labels).float().mean()
