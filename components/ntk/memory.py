"""How much memory a kernel may take, and what follows from it: how many images and layers at once, in which pieces."""

import math
from typing import NamedTuple

from components.foundation.errors import InputError
from components.ntk.grams import CHUNK, Effort, pairs_are_cheaper
from components.ntk.parameter_uses import Size, Survey

MIB = 2**20
_CHUNKS = (CHUNK, CHUNK // 8, CHUNK // 64, CHUNK // 512)
_PIECES = 3  # Gram matrices that are alive together: in the model's precision, in float64, and a layer's sum.
_MARGIN = 1.1  # What was measured beyond the sum of all that is known.


class Choice(NamedTuple):
    """What a memory budget led to.

    `images_at_once` < N: the kernel comes from pairs of blocks of images, which costs more passes. `layers_at_once`:
    how many of `num_layers` are differentiated in one go; fewer cost more backward passes, only where all logits are
    needed at once. `apart`: parameters differentiated image by image, since they enter in a way of their own; slow.
    """

    images_at_once: int
    layers_at_once: int
    num_layers: int
    chunk: int  # Elements of the largest intermediate of a layer.
    mib: float  # The estimate of what is allocated at once beside model and images.
    apart: tuple[str, ...]


class Needs(NamedTuple):
    """What a computation allocates beside model and images."""

    seen: Survey
    directions: int  # Passes back in all,
    together: int  # and how many of them have their gradients alive at the same time.
    squares: int  # Float64 matrices [N together, N together] that are kept.
    itemsize: int  # Bytes of an element of the model's precision.
    grams: bool = True  # Whether the gradients are multiplied with each other.

    def mib(self, images: int, layers: int, chunk: int, num_images: int) -> float:
        """For so many images and layers at once, of `num_images` in all."""
        sizes, rows = self.seen.sizes, images * self.together
        groups = [sum(each.outputs for each in sizes[start : start + layers]) for start in range(0, len(sizes), layers)]
        # The graph's own gradients on the way, and a layer's directions side by side.
        deltas = rows * (max(groups) + 2 * max(each.outputs for each in sizes))
        effort = Effort(self.directions, self.together, chunk)
        works = [self._work(each, images, effort) for each in sizes]
        elements = deltas + max(work for work, _ in works) + sum(kept for _, kept in works)
        squares = self.squares * (num_images * self.together) ** 2 + _PIECES * rows**2 * self.grams
        return _MARGIN * (images * self.seen.saved + self.itemsize * elements + 8 * squares) / MIB

    def _work(self, size: Size, images: int, effort: Effort) -> tuple[int, int]:
        """Elements that a layer takes while it is at work, and what it keeps for the next direction."""
        num_out, num_in, channel = size.weight
        rows = images * self.together
        if self.grams and num_out and pairs_are_cheaper(images, size.pixels, size.weight, size.groups, effort):
            pairs = (images * size.pixels) ** 2
            columns = images * size.pixels * num_in
            return 2 * pairs + columns, pairs if self.together == 1 else 0
        # Of one input channel its columns and gradients, as often as they fit into a chunk.
        columns, gradients = images * channel * size.pixels, rows * channel * num_out // size.groups
        channels = size.groups * num_in // max(channel, 1)
        times = min(channels, max(1, effort.chunk // max(columns, gradients, 1)))
        return times * (columns + 2 * gradients), 0


def choose(needs: Needs, num_images: int, budget: float | None) -> Choice:
    """The fastest way within `budget` MiB; None: everything at once. Error: nothing fits."""
    num_layers, apart = len(needs.seen.sizes), tuple(sorted(needs.seen.excluded))
    for images in _halves(num_images, 2):
        for layers in _halves(num_layers, 1) if needs.together > 1 else [num_layers]:
            for chunk in _CHUNKS:
                mib = needs.mib(images, layers, chunk, num_images)
                if budget is None or mib <= budget:
                    return Choice(images, layers, num_layers, chunk, mib, apart)
    least = needs.mib(min(2, num_images), 1, _CHUNKS[-1], num_images)
    raise InputError(
        f"memory: got {budget:g} MiB, want at least {math.ceil(least)} for {num_images} images of this model"
    )


def _halves(largest: int, smallest: int) -> list[int]:
    sizes = [largest]
    while sizes[-1] > smallest:
        sizes.append(max(smallest, -(-sizes[-1] // 2)))
    return sizes
