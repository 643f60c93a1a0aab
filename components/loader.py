"""Batches from a set that lives on the device as uint8, shuffled and augmented there, without worker processes."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from components.params import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Augmentation:
    """Random crops after padding by `crop` zero pixels on each side, and random horizontal flips."""

    crop: int
    flip: bool

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise ValueError(f"got crop {self.crop}, want at least 0 pixels")


class Batch(NamedTuple):
    """Float images [N, C, H, W] in [0, 1], labels [N], and each image's place in the set [N]."""

    images: Tensor
    labels: Tensor
    indices: Tensor


def to_pixels(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], channels last in memory (the layout convolutions are fastest in)."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


class Loader:
    """Epochs over uint8 `images` [N, C, H, W] and `labels` [N], in batches whose sizes differ by one at most.

    Even batches instead of a short last one, since batch norm has no use for a batch of one.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, augmentation: Augmentation) -> None:
        self.images, self.labels, self.augmentation = images, labels, augmentation
        self.num_batches = max(1, -(-len(images) // batch_size))

    def epoch(self, order_seed: int, rng: torch.Generator) -> Iterator[Batch]:
        """One pass: the order is a function of `order_seed` alone, the augmentation draws from `rng`."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(order_seed))
        for chosen in order.to(self.images.device).tensor_split(self.num_batches):
            images = augment(self.images[chosen], self.augmentation, rng)
            yield Batch(to_pixels(images), self.labels[chosen], chosen)


def augment(images: Tensor, augmentation: Augmentation, rng: torch.Generator) -> Tensor:
    """Each image of [N, C, H, W] shifted by up to `crop` pixels (zeros move in), flipped with chance one half."""
    num, _, height, width = images.shape
    device = images.device
    if augmentation.crop:
        pad = augmentation.crop
        down, right = torch.randint(0, 2 * pad + 1, (2, num, 1), generator=rng, device=device)
        rows = (down + torch.arange(height, device=device))[:, :, None]
        columns = (right + torch.arange(width, device=device))[:, None, :]
        each = torch.arange(num, device=device)[:, None, None]
        # Indexing around the channel axis puts it last: the result is channels-last already.
        images = F.pad(images, (pad,) * 4)[each, :, rows, columns].permute(0, 3, 1, 2)
    if augmentation.flip:
        flipped = torch.rand(num, generator=rng, device=device) < 0.5
        images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
    return images
