"""The embedded default: 1,797 scans of handwritten digits, 8x8 grey, shipped inside scikit-learn."""

import gzip
import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from components.data.splits import LabelledImages, Source
from components.foundation.errors import InputError
from components.foundation.params import strict

FILE = "datasets/data/digits.csv.gz"
# Of the 17 grey levels as uint8, then the labels as little-endian int64.
SHA256 = "65e5b4619795efb40c1082f4c350c049e4ad552200d369b6ae99e21eef5e72c5"


@strict
class Digits:
    """The 1,797 digits, [1797, 1, 8, 8], classes 0 to 9, without an official test split.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).

    >>> tuple(Digits().load(Path(".temper/downloads")).train.images.shape)
    (1797, 1, 8, 8)
    """

    def load(self, root: Path) -> Source:
        """All images; grey levels 0..16 become round(level * 255 / 16). Errors: no scikit-learn, wrong checksum."""
        levels, labels = _arrays()
        if hashlib.sha256(levels.tobytes() + labels.astype("<i8").tobytes()).hexdigest() != SHA256:
            raise InputError("digits: checksum of scikit-learn's load_digits() differs, want the 1,797 images of UCI")
        # In integers, so that no rounding mode matters.
        images = (levels.astype(np.int64) * 255 + 8) // 16
        train = LabelledImages(torch.from_numpy(images.astype(np.uint8)).unsqueeze(1), torch.from_numpy(labels))
        return Source(train=train, test=None, classes=tuple("0123456789"))


def _arrays() -> tuple[np.ndarray, np.ndarray]:
    """Grey levels 0..16, uint8 [1797, 8, 8], and labels, int64 [1797]."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise InputError("digits: needs scikit-learn, which is not installed (pip install '.[data]')")
    # The file alone: to import the package takes longer than all the rest of the stage.
    with gzip.open(Path(package.origin).parent / FILE, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1].copy()
