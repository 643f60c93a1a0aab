"""What every model shares: widths, chained blocks, the path from pixels to logits, and the initial weights."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import Field
from torch import nn

from components.data.normalization import Normalization, Normalize
from components.foundation.errors import InputError
from components.foundation.params import Real

Width = Annotated[Real, Field(gt=0, le=16)]
"""The multiplier of all channel counts; 1 is the published network."""
ImageShape = tuple[int, int, int]
"""Channels, height and width of one image."""
MakeBlock = Callable[[int, int, int], nn.Module]
"""Channels in, channels out, stride -> a block."""

SMALLEST_SIDE = 8


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 8 and at least 8, which suits vector units."""
    return max(8, 8 * round(channels * width / 8))


def convolution(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution of `size` x `size` that keeps the map's size over `stride`; no bias, since batch norm has one."""
    return nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)


def chain(make_block: MakeBlock, channels: int, stages: Iterable[tuple[int, int, int]]) -> nn.Sequential:
    """Blocks in sequence that take `channels`.

    Args:
        make_block: called once per block.
        channels: what the first block takes.
        stages: (channels out, number of blocks, stride of the first block), in order.
    """
    blocks = []
    for channels_out, num_blocks, stride in stages:
        for index in range(num_blocks):
            blocks.append(make_block(channels, channels_out, stride if index == 0 else 1))
            channels = channels_out
    return nn.Sequential(*blocks)


def classifier(
    normalization: Normalization, image_shape: ImageShape, features: nn.Module, head: nn.Module
) -> nn.Sequential:
    """A model with fresh weights: pixels [N, C, H, W] in [0, 1] -> features -> head -> logits [N, classes].

    Errors: images smaller than 8 x 8, which the strides would reduce to nothing.
    """
    if min(image_shape[1:]) < SMALLEST_SIDE:
        size = "x".join(map(str, image_shape[1:]))
        raise InputError(f"images of {size} pixels: every architecture needs at least {SMALLEST_SIDE}x{SMALLEST_SIDE}")
    layers = OrderedDict[str, nn.Module](normalize=Normalize(normalization), features=features, head=head)
    return nn.Sequential(layers).apply(_initialise)


def pooled_head(channels: int, num_classes: int) -> nn.Sequential:
    """Features of any size [N, channels, H, W] -> their mean over the map -> logits [N, classes]."""
    layers = OrderedDict[str, nn.Module](
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(channels, num_classes)
    )
    return nn.Sequential(layers)


def _initialise(module: nn.Module) -> None:
    # On "meta" there is nothing to draw, and torch would import its compiler for that: a second.
    if any(weight.is_meta for weight in module.parameters(recurse=False)):
        return
    # He et al., arXiv 1502.01852, eq. 10. Fan-in, because torch's fan-out counts a depthwise convolution as a full one.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
        nn.init.zeros_(module.bias)
