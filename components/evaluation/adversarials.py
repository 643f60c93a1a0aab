"""Adversarial images on disk: one plain .npy file a model, filled as images fall, read back to be scored again."""

from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from components.evaluation.one_attack import TestSet
from components.foundation.storage import beginning, replacing

Dtype = Literal["float32", "uint8"]


class Adversarials:
    """For every test image its adversarial version, or the image itself while none is known: [N, C, H, W].

    `float32` keeps what the attack made. `uint8` keeps what an 8-bit image file can hold: rounded towards the clean
    image, so that the perturbation stays inside the ball; such an image may no longer fool the model.
    """

    def __init__(self, path: Path | str, test: TestSet, dtype: Dtype) -> None:
        self.path, self.test = Path(path), test
        self.dtype: Dtype = dtype
        if not self.path.exists():
            self._begin()
        self._rows = open_memmap(self.path, mode="r+")

    def _begin(self) -> None:
        """The file with the images themselves in it, unless another process began it in the meantime."""
        with beginning(self.path) as file:
            _write(file, self.dtype, self.test, None)

    def copied(self, path: Path, dtype: Dtype) -> "Adversarials":
        """These images in another file, in the form `dtype`; a file that was there stays until this one is whole."""
        with replacing(path) as partial, partial.open("wb") as file:
            _write(file, dtype, self.test, self)
        return Adversarials(path, self.test, dtype)

    def keep(self, places: Tensor, images_adv: Tensor) -> None:
        """Writes the adversarial versions [n, C, H, W] of the images at `places` [n]; they are on disk on return."""
        if len(places):
            images = next(self.test._replace(batch_size=len(places)).batches(places))[0]
            self._rows[places.cpu().numpy()] = _stored(images_adv, images, self.dtype)
            self._rows.flush()

    def read(self, places: Tensor) -> Tensor:
        """The images at `places`, float32 in [0, 1] on the test set's device."""
        rows = torch.from_numpy(np.array(self._rows[places.cpu().numpy()]))
        pixels = rows if self.dtype == "float32" else rows.float() / 255
        return pixels.to(self.test.images.device)


def _write(file: BinaryIO, dtype: Dtype, test: TestSet, source: Adversarials | None) -> None:
    """Writes every image as `source` has it; the image itself where that is None."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(test.images.shape)}
    np.lib.format.write_array_header_1_0(file, header)
    for images, _, places in test.batches():
        images_adv = images if source is None else source.read(places)
        file.write(_stored(images_adv, images, dtype).tobytes())


def _stored(images_adv: Tensor, images: Tensor, dtype: Dtype) -> np.ndarray:
    if dtype == "float32":
        return images_adv.detach().cpu().contiguous().numpy()
    levels = (images * 255).round()
    # A grey level that the attack reached up to float rounding is reached.
    steps = ((images_adv * 255 - levels).abs() + 1e-3).floor() * (images_adv * 255 - levels).sign()
    return (levels + steps).clamp_(0, 255).to(torch.uint8).cpu().contiguous().numpy()
