"""CIFAR-10: 50,000 + 10,000 colour images, 32x32, of ten classes."""

from pathlib import Path

from components.data.splits import Source
from components.datasets.parts.cifar_batches import read_batches
from components.foundation.params import strict


@strict
class Cifar10:
    """CIFAR-10, [50000, 3, 32, 32] and [10000, 3, 32, 32], ten classes.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    def load(self, root: Path) -> Source:
        """Both splits, from `root/cifar-10-batches-py`, else from `root/cifar-10-python.tar.gz`, else fetched.

        Errors: wrong checksum; files that are neither there nor can be downloaded.
        """
        # torchvision takes seconds to import, which only those who use it should pay.
        from torchvision.datasets import CIFAR10

        return read_batches(CIFAR10, root, "labels")
