"""The residual block that PreActResNet and WideResNet are made of (He et al., arXiv 1603.05027, fig. 4e)."""

from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from components.models.parts.batch_norm import BatchNorm
from components.models.parts.classifier import chain, convolution

Projected = Literal["activated", "plain"]
"""What a shortcut's convolution sees where the shape changes: the input after norm and ReLU, or the input itself."""


class PreactivationBlock(nn.Module):
    """[N, channels_in, H, W] -> [N, channels_out, H / stride, W / stride]; norm and ReLU come before each convolution.

    Where the shape changes, the shortcut is a bare 1x1 convolution of the activated input, or of the `plain` one;
    elsewhere it is the input.
    """

    def __init__(
        self, batch_norm: BatchNorm, projected: Projected, channels_in: int, channels_out: int, stride: int
    ) -> None:
        super().__init__()
        self.projected = projected
        self.norm1 = batch_norm.layer(channels_in)
        self.conv1 = convolution(channels_in, channels_out, 3, stride)
        self.norm2 = batch_norm.layer(channels_out)
        self.conv2 = convolution(channels_out, channels_out, 3)
        same = stride == 1 and channels_in == channels_out
        self.shortcut = None if same else convolution(channels_in, channels_out, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        active = F.relu(self.norm1(features))
        projected = active if self.projected == "activated" else features
        shortcut = features if self.shortcut is None else self.shortcut(projected)
        return shortcut + self.conv2(F.relu(self.norm2(self.conv1(active))))


def preactivation_features(
    batch_norm: BatchNorm,
    channels: int,
    stem_channels: int,
    stages: list[tuple[int, int, int]],
    projected: Projected = "activated",
) -> nn.Module:
    """A 3x3 stem, the blocks, and the batch norm and ReLU that follow the last block."""
    blocks = chain(partial(PreactivationBlock, batch_norm, projected), stem_channels, stages)
    last = [batch_norm.layer(stages[-1][0]), nn.ReLU(inplace=True)]
    return nn.Sequential(convolution(channels, stem_channels, 3), blocks, *last)
