"""The images of one training step."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from components.data.placement import Placement


def num_parts(total: int, processes: int, micro_batch: int | None) -> int:
    """In how many parts a batch of `total` images goes through, on each of the processes that share it.

    As many on each, since they exchange the statistics of batch norm in each part. A part has at most `micro_batch`
    images, but never a single one, which batch norm refuses: of an odd number of images, three go through at once.
    """
    if micro_batch is None:
        return 1
    fewest, most = total // processes, -(-total // processes)
    return max(1, min(-(-most // micro_batch), fewest // 2))


class Batch(NamedTuple):
    """The images of one training step, with labels and what is known of each image.

    `images` are float [N, C, H, W] in [0, 1]. `labels` are int64 [N], or probabilities [N, K] where an augmentation
    mixes classes. `indices` [N] are the images' places in the training split, and `placement` says how augmentation
    moved each image, so that a perturbation kept for it can be moved in the same way. Where processes train together,
    each sees its part of a batch of `total` images; otherwise that is all of them (0 stands for as many as there are).
    `num_images` are in the training split, those of a second source included; 0 where that is not known.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    placement: Placement
    total: int = 0
    num_images: int = 0

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> "Batch":
        """The first images of a split, unmoved."""
        return cls(images, labels, torch.arange(len(images), device=images.device), Placement.still(images))

    def cut(self, num_parts: int) -> Iterator[tuple[slice, "Batch"]]:
        """So many parts, whose sizes differ by one at most, with their places; `total` stays that of the whole."""
        if num_parts == 1:
            yield slice(None), self
            return
        edges = [len(self.images) * part // num_parts for part in range(num_parts + 1)]
        for first, end in pairwise(edges):
            places = slice(first, end)
            yield places, self._at(places)

    def part(self, rank: int, ranks: int) -> "Batch":
        """The images of process number `rank` among `ranks`: rank, rank + ranks, …"""
        if ranks == 1:
            return self._replace(total=len(self.images))
        places = slice(rank, None, ranks)
        part = self._at(places)
        images = part.images.contiguous(memory_format=torch.channels_last)
        return part._replace(images=images, total=len(self.images))

    def _at(self, places: slice) -> "Batch":
        """Some of the images, with what is known of each."""
        return self._replace(
            images=self.images[places],
            labels=self.labels[places],
            indices=self.indices[places],
            placement=self.placement.part(places),
        )
