"""Both readers of an image folder, in memory and streamed: the same pixels of every file, or the same refusal."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from components.data.decoding import chunks
from components.data.listing import Decoding
from components.data.picture import decode
from components.datasets.image_folder import ImageFolder, Streamed
from components.foundation.errors import InputError
from tests.parts.picture_files import Picture, pictures, png, tiff
from tests.parts.streamed_files import jpeg

SIZE = 16
DECODING = Decoding(folder="", image_size=SIZE, color="rgb", resize="stretch", random_crop=None)


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    monkeypatch.setenv("TEMPER_WORKERS", "0")


def read(folder: Path, color: str, resize: str, streamed: bool) -> torch.Tensor:
    """The train images as one of the two readers gives them."""
    how = Streamed(random_crop=None) if streamed else None
    fields: dict[str, Any] = {"image_size": SIZE, "color": color, "resize": resize, "streamed": how}
    return torch.cat(list(chunks(ImageFolder(folder=str(folder), **fields).load(folder).train)))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A file of the image."""
    packed = io.BytesIO()
    image.save(packed, kind, **options)
    return packed.getvalue()


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
        found = decode(encoded(smooth.convert(mode), name, quality=95), DECODING, None)
        assert (found - expected(np.asarray(smooth), "rgb", "crop")).abs().mean() < 5, (name, mode)


def test_what_is_outside_of_the_window_does_not_mix_into_it():
    strip = np.zeros((300, 1, 3), np.uint8)
    strip[149] = 22, 122, 222
    for pixels in (strip, strip.swapaxes(0, 1)):
        found = decode(encoded(Image.fromarray(pixels.copy()), "PNG"), replace(DECODING, resize="crop"), None)
        assert found.flatten(1).unique(dim=1).flatten().tolist() == [22, 122, 222]


def page(image: Image.Image) -> bytes:
    return encoded(image, "TIFF")


REFUSED = {
    "page.jpg": (b"<html>not found</html>", "want a whole BMP, GIF, JPEG, PNG, PPM, TIFF or WEBP file"),
    "vectors.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "want a whole BMP, GIF"),
    "paper.png": (b"%PDF-1.7\n", "want a whole BMP, GIF"),
    "empty.webp": (b"", "want a whole BMP, GIF"),
    "float.tif": (page(Image.fromarray(np.zeros((8, 8), np.float32))), "floating-point grey levels, want 8 or 16 bits"),
    "deep.tif": (page(Image.fromarray(np.full((8, 8), 70_000, np.int32))), "32-bit grey levels, want 8 or 16 bits"),
    "minus.tif": (page(Image.fromarray(np.full((8, 8), -1, np.int32))), "32-bit grey levels, want 8 or 16 bits"),
    "hole2.png": (png(2, 0, np.zeros((4, 2), np.uint8), tRNS=b"\0\1"), "a transparent colour of 2 bits, want 8"),
    "hole4.png": (png(4, 0, np.zeros((4, 2), np.uint8), tRNS=b"\0\1"), "a transparent colour of 4 bits, want 8"),
    "hole16.png": (png(16, 2, np.zeros((4, 12), np.uint8), tRNS=b"\0" * 6), "a transparent colour of 16 bits, want 8"),
    **{
        f"{word}.tif": (tiff(np.full((4, 4), 99), bits, order, **tags), reason)
        for word, bits, order, tags, reason in (
            ("signs8", 8, "<", {"numbers": 2}, "8-bit levels with signs, want levels without"),
            ("signs16", 16, ">", {"numbers": 2}, "16-bit levels with signs, want levels without"),
            ("half", 8, "<", {"height": 8}, "1 strips or tiles, want more"),
            ("red", 8, "<", {"channels": 3, "meaning": 2, "planes": 2}, "1 strips or tiles, want more"),
        )
    },
    "header.png": (png(8, 0, np.zeros((1, 9), np.uint8)).replace(b"IHDR", b"IHDQ"), "want a whole BMP, GIF"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_both_readers_in_the_same_words(tmp_path, name):
    data, reason = REFUSED[name]
    folder, said = write(tmp_path, {"0.jpg": jpeg(1, (8, 8)), name: data}), set()
    for streamed in (False, True):
        with pytest.raises(InputError) as error:
            read(folder, "rgb", "crop", streamed)
        said.add(str(error.value))
    assert len(said) == 1 and said.pop().startswith(f"{folder}/train/ant/{name}: not readable as an image: {reason}")


def test_the_cases_of_transparency_that_pillow_gets_right_are_taken():
    """Where one of the grey levels of 1 or 8 bits stands for transparency."""
    bits = decode(png(1, 0, np.full((8, 1), 0b01010101, np.uint8), tRNS=b"\0\1"), DECODING, None)
    black = decode(png(1, 0, np.full((8, 1), 0b01010101, np.uint8), tRNS=b"\0\0"), DECODING, None)
    assert bits.min() == 0 and bits.max() == 255 and black.min() == 255
