"""Batches from a set that lives on the device as uint8, shuffled and augmented there, without worker processes."""

from collections.abc import Iterator

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from components.contracts import Batch
from components.params import STRICT
from components.placement import Placement


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Augmentation:
    """Random crops after padding by `crop` zero pixels on each side, and random horizontal flips."""

    crop: int
    flip: bool

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise ValueError(f"got crop {self.crop}, want at least 0 pixels")


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

    def clean(self, num_batches: int) -> Iterator[Tensor]:
        """The pixels of the first batches of the set as it is: no order, no augmentation, no random numbers."""
        for images in self.images.tensor_split(self.num_batches)[:num_batches]:
            yield to_pixels(images)

    def epoch(self, order_seed: int, rng: torch.Generator) -> Iterator[Batch]:
        """One pass: the order is a function of `order_seed` alone, the augmentation draws from `rng`."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(order_seed))
        for chosen in order.to(self.images.device).tensor_split(self.num_batches):
            images, placement = augment(self.images[chosen], self.augmentation, rng)
            yield Batch(to_pixels(images), self.labels[chosen], chosen, placement)


def augment(images: Tensor, augmentation: Augmentation, rng: torch.Generator) -> tuple[Tensor, Placement]:
    """Each image of [N, C, H, W] shifted by up to `crop` pixels (zeros move in), flipped with chance one half."""
    placement = Placement.drawn(images, augmentation.crop, augmentation.flip, rng)
    return placement.moved(images), placement
