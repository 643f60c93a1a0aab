"""CIFAR-100: 50,000 + 10,000 colour images, 32x32, of a hundred classes."""

from pathlib import Path

from components.data.splits import Source
from components.datasets.parts.cifar_batches import read_batches
from components.foundation.params import strict


@strict
class Cifar100:
    """CIFAR-100 with its 100 fine classes, [50000, 3, 32, 32] and [10000, 3, 32, 32]; source as CIFAR-10."""

    def load(self, root: Path) -> Source:
        """Both splits, from `root/cifar-100-python`, else from `root/cifar-100-python.tar.gz`, else fetched.

        Errors: wrong checksum; files that are neither there nor can be downloaded.
        """
        # torchvision takes seconds to import, which only those who use it should pay.
        from torchvision.datasets import CIFAR100

        return read_batches(CIFAR100, root, "fine_labels")
