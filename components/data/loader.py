"""Batches from a set that lives on the device as uint8, shuffled and augmented there, without worker processes."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from components.data.augmentation import Augmentation, augmented
from components.data.batch import Batch
from components.data.mixing import Mixture
from components.data.pixels import to_pixels
from components.numerics import parallel


class Batches(Protocol):
    """What training asks of a loader: `Loader` or `streaming.StreamedLoader`."""

    num_batches: int
    largest_batch: int
    """Images of the largest one, which processes that train together share."""

    def clean(self, num_batches: int) -> Iterator[Tensor]: ...

    def epoch(self, order_seed: int, rng: torch.Generator) -> Iterator[Batch]: ...


class Loader:
    """Epochs over uint8 `images` [N, C, H, W] and `labels` [N], in batches whose sizes differ by one at most.

    The batches are even, since batch norm cannot use a short last batch of one image. With a `mixture`, images of a
    second source stand behind the set's own, and each batch is drawn from both.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        augmentation: Augmentation,
        num_classes: int,
        mixture: Mixture | None = None,
    ) -> None:
        self.images, self.labels, self.augmentation, self.num_classes = images, labels, augmentation, num_classes
        self.mixture = mixture or Mixture(len(images))
        self.num_batches = max(1, -(-self.mixture.num_own // batch_size))
        self.largest_batch = -(-self.mixture.num_own // self.num_batches)

    def clean(self, num_batches: int) -> Iterator[Tensor]:
        """The pixels of the first batches of the set as it is: no order, no augmentation, no random numbers."""
        for images in self.images[: self.mixture.num_own].tensor_split(self.num_batches)[:num_batches]:
            yield to_pixels(images[parallel.rank() :: parallel.world_size()])

    def epoch(self, order_seed: int, rng: torch.Generator) -> Iterator[Batch]:
        """One pass: the order is a function of `order_seed` alone, the augmentation draws from `rng`.

        Where processes train together, each gets its part of every batch, augmented as in the whole batch.
        """
        order = self.mixture.order(self.num_batches, order_seed)
        for chosen in order.to(self.images.device).tensor_split(self.num_batches):
            images, labels = self.images[chosen], self.labels[chosen]
            batch = augmented(images, labels, chosen, self.augmentation, self.num_classes, rng)
            yield batch._replace(num_images=len(self.images)).part(parallel.rank(), parallel.world_size())
