"""Fashion-MNIST: 60,000 + 10,000 grey images of clothing, 28x28, from the publisher's four idx files."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.data.splits import LabelledImages, Source
from components.datasets.parts.downloads import fetch, read_verified
from components.foundation.params import strict

# An idx file opens with two zero bytes, the type (8: unsigned byte), the number of dimensions, then each of them.
IDX_PREFIX = 4


@strict
class FashionMnist:
    """Fashion-MNIST, [60000, 1, 28, 28] and [10000, 1, 28, 28], ten classes.

    Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747.
    """

    def load(self, root: Path) -> Source:
        """Both splits, from `root/FashionMNIST/raw/*.gz`, from `root/fashion-mnist/*.gz`, or fetched into the former.

        Errors: wrong checksum; a file that is neither there nor can be downloaded.
        """
        # torchvision takes seconds to import, which only those who use it should pay.
        from torchvision.datasets import FashionMNIST

        mirror, files = FashionMNIST.mirrors[0], FashionMNIST.resources
        arrays = {name: _parse(_bytes(root, name, md5, mirror)) for name, md5 in files}
        return Source(_labelled(arrays, "train"), _labelled(arrays, "t10k"), tuple(FashionMNIST.classes))


def _bytes(root: Path, name: str, md5: str, mirror: str) -> bytes:
    """The uncompressed idx file; only the compressed form has a published checksum, so only that is read."""
    path = root / "FashionMNIST" / "raw" / name
    flat = root / "fashion-mnist" / name
    if flat.exists() and not path.exists():
        path = flat
    elif not path.exists():
        fetch(mirror + name, path, md5, f"the four idx .gz files into {path.parent}")
    return gzip.decompress(read_verified(path, md5))


def _parse(data: bytes) -> Tensor:
    """The array of an idx file, uint8."""
    num_dimensions = data[IDX_PREFIX - 1]
    shape = np.frombuffer(data, ">u4", num_dimensions, IDX_PREFIX).tolist()
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=IDX_PREFIX + 4 * num_dimensions).reshape(shape).copy())


def _labelled(arrays: dict[str, Tensor], part: str) -> LabelledImages:
    images, labels = arrays[f"{part}-images-idx3-ubyte.gz"], arrays[f"{part}-labels-idx1-ubyte.gz"]
    return LabelledImages(images.unsqueeze(1), labels.long())
