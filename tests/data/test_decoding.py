"""Both readers of an image folder, in memory and streamed: the same pixels of every file, or the same refusal."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from components.data.decoding import Stream, chunks
from components.data.listing import Decoding
from components.data.picture import decode
from components.datasets.image_folder import ImageFolder, Streamed
from components.foundation.errors import InputError
from tests.parts.picture_files import Picture, pictures, png
from tests.parts.pipeline_files import ROOT, environment
from tests.parts.streamed_files import jpeg, listed, write_folder

SIZE = 16
DECODING = Decoding(folder="", image_size=SIZE, color="rgb", resize="stretch", random_crop=None)


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    monkeypatch.setenv("TEMPER_WORKERS", "0")


def read(folder: Path, color: str, resize: str, streamed: bool) -> torch.Tensor:
    """The train images as one of the two readers gives them."""
    how = Streamed(random_crop=None) if streamed else None
    member = ImageFolder(folder=str(folder), image_size=SIZE, color=color, resize=resize, streamed=how)
    return torch.cat(list(chunks(member.load(folder).train)))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """The files as one class, beside another."""
    for name, content in {"ant": files, "bee": {f"{n}.jpg": jpeg(n, (8, 8)) for n in range(2)}}.items():
        (folder / "train" / name).mkdir(parents=True)
        for file, data in content.items():
            (folder / "train" / name / file).write_bytes(data)
    return folder


def expected(pixels: np.ndarray, color: str, resize: str) -> torch.Tensor:
    """What the formulas say of pixels [H, W, 3]: cut, resized and made grey in floating point, [C, SIZE, SIZE]."""
    image = torch.tensor(pixels.astype(float).copy()).permute(2, 0, 1)
    if resize == "crop":
        height, width = image.shape[1:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[:, top : top + side, left : left + side]
    image = functional.resize(image, [SIZE, SIZE], antialias=True)
    return image if color == "rgb" else image.mul(torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, True)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> tuple[Path, list[Picture]]:
    """A folder of files of all kinds, in the order in which they are read."""
    files = dict(sorted(pictures(seed=1, count=300)))
    folder = write(tmp_path_factory.mktemp("gallery"), {name: picture.data for name, picture in files.items()})
    return folder, list(files.values())


@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_every_kind_of_file_has_the_same_pixels_for_both_readers(gallery, color, resize):
    folder, files = gallery
    here, there = (read(folder, color, resize, streamed) for streamed in (False, True))
    assert torch.equal(here, there)
    for picture, image in zip(files, here, strict=False):
        if picture.pixels is not None:
            error = (image - expected(picture.pixels, color, resize)).abs().max()
            assert error < 2.1, (picture.kind, color, resize, float(error))


def test_lossy_files_show_the_picture():
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 3, 3), np.uint8)).resize((SIZE, SIZE))
    for name, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB")):
        packed = __import__("io").BytesIO()
        smooth.convert(mode).save(packed, name, quality=95)
        error = (decode(packed.getvalue(), DECODING, None) - expected(np.asarray(smooth), "rgb", "crop")).abs()
        assert error.mean() < 3, (name, mode)
