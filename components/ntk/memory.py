"""How much memory a kernel may take, and what follows from it: how many images and layers at once, in which pieces."""

import math
from typing import NamedTuple

from components.foundation.errors import InputError
from components.ntk.grams import CHUNK
from components.ntk.parameter_uses import Survey

MIB = 2**20
_CHUNKS = (CHUNK, CHUNK // 8, CHUNK // 64, CHUNK // 512)
_PIECES = 3  # Intermediates of a layer that are alive together: columns, gradients, and a copy of either.


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
    together: int  # Directions whose gradients are alive at the same time.
    squares: int  # Float64 matrices [N together, N together] that are kept.
    itemsize: int  # Bytes of an element of the model's precision.

    def mib(self, images: int, layers: int, chunk: int, num_images: int) -> float:
        """For so many images and layers at once, of `num_images` in all."""
        sizes, rows = self.seen.sizes, images * self.together
        groups = [sum(each.outputs for each in sizes[start : start + layers]) for start in range(0, len(sizes), layers)]
        # The graph's own gradients on the way, and a layer's directions side by side.
        deltas = rows * (max(groups) + 2 * max(each.outputs for each in sizes))
        pairs = [(images * each.pixels) ** 2 for each in sizes]
        largest = max(
            max(rows * each.piece, min(chunk, max(rows * each.whole, pair)))
            for each, pair in zip(sizes, pairs, strict=True)
        )
        products = sum(pair for pair in pairs if pair <= chunk) if self.together == 1 else 0
        squares = self.squares * (num_images * self.together) ** 2 + _PIECES * rows**2
        elements = deltas + _PIECES * largest + products
        return (images * self.seen.saved + self.itemsize * elements + 8 * squares) / MIB


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
