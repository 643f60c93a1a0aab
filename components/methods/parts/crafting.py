"""Which mode batch norm is in while the images to train on are crafted."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.models.parts.batch_norm import untracked

BatchNormMode = Literal["eval", "train", "train_untracked"]
"""`eval`: the running statistics, which stay as they are. `train`: the batch's own statistics, and every pass of the
attack counts in the running ones. `train_untracked`: the batch's own statistics, and no pass of the attack counts."""


class _KeepsMode(nn.Module):
    """A network that an attack cannot switch to evaluation mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def train(self, mode: bool = True) -> "_KeepsMode":
        """Nothing: modes stay as they are."""
        return self


@contextmanager
def crafting(model: nn.Module, batch_norm: BatchNormMode) -> Generator[nn.Module]:
    """The network that attacks see inside the block: `model` in evaluation mode, or in the modes that it has.

    Every module's own mode is restored after the block. A network in evaluation mode, as a teacher is, stays in it.
    """
    match batch_norm:
        case "eval":
            with eval_mode(model):
                yield model
        case "train":
            yield _KeepsMode(model)
        case "train_untracked":
            with untracked(model):
                yield _KeepsMode(model)
