"""Normalisation as the model's first layer: exact statistics of the train split, stored with the weights."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.params import strict

Scaling = Literal["standardize", "minmax", "none"]


@strict
class Normalization:
    """The affine map `(pixel - offset) / scale` of [0, 1] pixels, one offset and one scale per channel."""

    method: Scaling
    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def require_channels(self, channels: int, where: str) -> None:
        """Refuses anything but one offset and one scale, which is not 0, per channel."""
        if not len(self.offset) == len(self.scale) == channels:
            found = f"{len(self.offset)} offsets and {len(self.scale)} scales"
            raise InputError(f"{where}: {found} for {channels} channel(s), want one of each per channel")
        if 0 in self.scale:
            raise InputError(f"{where}: scale: got 0, which nothing can be divided by")


class Normalize(nn.Module):
    """The layer: [N, C, H, W] pixels in [0, 1] -> the same shape, `(pixel - offset) / scale` per channel."""

    offset: Tensor
    scale: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.register_buffer("offset", torch.tensor(normalization.offset).view(1, -1, 1, 1))
        self.register_buffer("scale", torch.tensor(normalization.scale).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.offset) / self.scale


def normalization_of(model: nn.Module, usual: Normalization) -> Normalization:
    """What the first layer of a model does: `usual`, or what its initial weights brought along."""
    (layer,) = [module for module in model.modules() if isinstance(module, Normalize)]
    like = Normalize(usual).to(layer.offset)
    if torch.equal(layer.offset, like.offset) and torch.equal(layer.scale, like.scale):
        return usual
    offset, scale = (tuple(buffer.flatten().tolist()) for buffer in (layer.offset, layer.scale))
    return Normalization(method="standardize", offset=offset, scale=scale)


def fit_normalization(images: Tensor | Iterable[Tensor], method: Scaling) -> Normalization:
    """The statistics of uint8 images [N, C, H, W], one tensor or several, exact: 256 integer counts per channel,
    then float64.

    `standardize`: mean and population standard deviation; `minmax`: smallest value and range; `none`: identity. A
    channel that is constant keeps scale 1, so that nothing divides by zero.
    """
    counts = sum(_counts(part) for part in ([images] if isinstance(images, Tensor) else images))
    assert isinstance(counts, Tensor), "no images at all"
    channels = len(counts)
    if method == "none":
        return Normalization(method=method, offset=(0.0,) * channels, scale=(1.0,) * channels)
    levels = torch.arange(256, dtype=torch.float64) / 255
    offset, scale = [], []
    for count in counts.double():
        if method == "standardize":
            mean = (count @ levels) / count.sum()
            spread = ((count @ (levels - mean) ** 2) / count.sum()).sqrt()
        else:
            seen = levels[count > 0]
            mean, spread = seen.min(), seen.max() - seen.min()
        offset.append(float(mean))
        scale.append(float(spread) if spread > 0 else 1.0)
    return Normalization(method=method, offset=tuple(offset), scale=tuple(scale))


def _counts(images: Tensor) -> Tensor:
    """How often each of the 256 levels occurs in each channel, int64 [C, 256]."""
    return torch.stack([torch.bincount(channel.reshape(-1), minlength=256) for channel in images.unbind(1)])
