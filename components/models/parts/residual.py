"""What the residual networks share: blocks in stages behind a 3x3 stem, and the two shortcuts of arXiv 1512.03385."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from components.models.parts.batch_norm import BatchNorm
from components.models.parts.classifier import chain, convolution

Shortcut = Callable[[BatchNorm, int, int, int], nn.Module]


def projection(batch_norm: BatchNorm, channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Option B of the paper: a 1x1 convolution with batch norm."""
    return nn.Sequential(convolution(channels_in, channels_out, 1, stride), batch_norm.layer(channels_out))


def padding(_: BatchNorm, channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Option A of the paper: every `stride`-th pixel, and zeros for the new channels; no parameters."""
    return Subsample(stride, channels_out - channels_in)


class Subsample(nn.Module):
    """[N, C, H, W] -> [N, C + new_channels, H / stride, W / stride], the new channels zero."""

    def __init__(self, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, new_channels

    def forward(self, features: Tensor) -> Tensor:
        return F.pad(features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def residual_features(
    batch_norm: BatchNorm, channels: int, stages: list[tuple[int, int, int]], shortcut: Shortcut
) -> nn.Module:
    stem_channels = stages[0][0]
    stem = [convolution(channels, stem_channels, 3), batch_norm.layer(stem_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*stem, chain(partial(_block, batch_norm, shortcut), stem_channels, stages))


def _block(batch_norm: BatchNorm, shortcut: Shortcut, channels_in: int, channels_out: int, stride: int) -> nn.Module:
    # torchvision takes seconds to import, which only those who use it should pay.
    from torchvision.models.resnet import BasicBlock

    same = stride == 1 and channels_in == channels_out
    downsample = None if same else shortcut(batch_norm, channels_in, channels_out, stride)
    return BasicBlock(channels_in, channels_out, stride, downsample, norm_layer=batch_norm.layer)
