"""Batches of two sources: a training set's own images, and those of a second source behind them."""

from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from components.foundation.params import Ratio


class Mixture(NamedTuple):
    """`num_own` images, then `num_extra` of a second source, of which an epoch has the share `share`, to one image.

    Each batch has it too, to one image; where that is less than one, some batches have one and others none.

    An epoch has as many steps as one of the own images alone, so its cost does not depend on the second source. Gowal
    et al. (arXiv 2110.09468) and Wang et al. (arXiv 2302.04638) train on generated images in this way, with shares of
    0.7 and 0.8.
    """

    num_own: int
    num_extra: int = 0
    share: Ratio = Ratio(0)

    @property
    def extra_per_epoch(self) -> int:
        """How many images of the second source an epoch has."""
        return round(self.share * self.num_own)

    def order(self, num_batches: int, order_seed: int) -> Tensor:
        """The images of an epoch, int64 [num_own], to be cut by `tensor_split` into so many batches.

        A function of `order_seed` alone. Own images come at most once an epoch; those of the second source come again
        only after all of them have come. Within a batch the two are shuffled: a method may attack the first images of
        it alone, and a batch may go through in parts.
        """
        rng = torch.Generator().manual_seed(order_seed)
        order = torch.randperm(self.num_own, generator=rng)
        if not self.share:
            return order
        batches = order.tensor_split(num_batches)
        # What is due up to the end of each batch: rounding each batch alone would add up, or leave all without any.
        ends = accumulate(len(own) for own in batches)
        counts = [end - begin for begin, end in pairwise([0, *(round(self.share * end) for end in ends)])]
        extra = self._extra(sum(counts), rng).split(counts)
        mixed = [torch.cat([own[len(more) :], more]) for own, more in zip(batches, extra, strict=True)]
        return torch.cat([batch[torch.randperm(len(batch), generator=rng)] for batch in mixed])

    def _extra(self, count: int, rng: torch.Generator) -> Tensor:
        passes = [torch.randperm(self.num_extra, generator=rng) for _ in range(-(-count // self.num_extra))]
        return self.num_own + torch.cat(passes)[:count]
