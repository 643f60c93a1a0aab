"""Several teachers in one role answer as one network; and one that bfloat16 changes too much computes in float32."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.methods.parts.two_views import logits_of


def together(networks: Sequence[nn.Module]) -> nn.Module:
    """One network for a role: the only one itself, or several whose probabilities are averaged."""
    return networks[0] if len(networks) == 1 else Together(networks)


class Together(nn.Module):
    """The logarithm of the mean of the networks' probabilities, as logits [N, K]: log (1/T) Σ softmax(z_t).

    At a temperature τ the student sees the mean's probabilities to the power of 1/τ, not the mean of powers.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.asked = nn.ModuleList(_Asked(network) for network in networks)

    def forward(self, images: Tensor) -> Tensor:
        logits = [logits_of(network, images) for network in self.asked]
        # In double precision, from logarithms: a probability that underflows keeps its digits.
        logs = torch.stack([F.log_softmax(one.double(), dim=1) for one in logits])
        return (logs.logsumexp(0) - math.log(len(logits))).to(logits[0].dtype)


class _Asked(nn.Module):
    """A network as this role asks it: another role may ask the same one, and its passes count there."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


class InFloat32(nn.Module):
    """A network whose arithmetic is float32, whatever the training step's is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self.network(images.float())
