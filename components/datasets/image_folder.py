"""A user's own images: one folder per class, any size and mode, decoded to one size, or listed to be streamed."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from components.data.listing import SUFFIXES, Decoding, LabelledFiles
from components.data.splits import LabelledImages, Source, require_counts
from components.foundation.errors import InputError
from components.foundation.params import Real, strict

if TYPE_CHECKING:
    from PIL.Image import Image

# The only formats that are parsed: PIL also knows formats (EPS, PDF) that start other programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
BACKGROUND = "white"
HELD_OUT = ("test", "val")


@strict
class Streamed:
    """The train split stays in its files, which worker processes decode while training (see docs/streaming.md).

    `random_crop` is the smallest share of an image's area that a random crop keeps; null: no random crops.
    """

    random_crop: Annotated[Real, Field(gt=0, le=1)] | None  # Least share of an image that a crop keeps; null: none.


@strict
class ImageFolder:
    """Images under `folder/train/CLASS/` and, if there is one, `folder/test/CLASS/` or, as ImageNet names it,
    `folder/val/CLASS/`; classes in order of their names.
    """

    folder: str  # Absolute, or relative to where the command runs.
    image_size: Annotated[int, Field(ge=1, le=4096)]  # Height and width of the result, in pixels.
    color: Literal["rgb", "gray"]  # Three channels, or one.
    resize: Literal["crop", "stretch"]  # `crop` cuts the middle square; `stretch` changes the aspect ratio.
    streamed: Streamed | None  # How files are decoded while training; null decodes every image now.

    def load(self, root: Path) -> Source:
        """Every image, decoded or listed; `root` is not used.

        Errors, with the file or the class: missing folder, no images, a class with too few, classes that differ between
        train and test, both a test and a val folder, a file that is no image or (unless streamed) is truncated.
        """
        folder = Path(self.folder).expanduser()
        if not self.streamed and find_spec("PIL") is None:
            raise InputError("image_folder: needs pillow, which is not installed (pip install 'temper[data]')")
        train = _listing(folder / "train", minimum=2)
        classes = tuple(train)
        if len(classes) < 2:
            raise InputError(f"{folder / 'train'}: {len(classes)} class folder(s), want at least 2")
        held_out = [name for name in HELD_OUT if (folder / name).exists()]
        if len(held_out) > 1:
            raise InputError(f"{folder}: has both {' and '.join(held_out)}, want one of them as the test split")
        test = _listing(folder / held_out[0], minimum=1) if held_out else None
        if test is not None:
            _require_same_classes(classes, tuple(test), folder)
        read = self._listed if self.streamed else self._decode
        return Source(train=read(train), test=None if test is None else read(test), classes=classes)

    def _listed(self, listing: dict[str, list[Path]]) -> LabelledFiles:
        assert self.streamed is not None
        folder, crop = Path(self.folder).expanduser(), self.streamed.random_crop
        paths = [(path, label) for label, files in enumerate(listing.values()) for path in files]
        for path, _ in paths:
            if path.suffix.lower() not in SUFFIXES:
                raise InputError(f"{path}: cannot be streamed (allowed: {' '.join(SUFFIXES)})")
        decoding = Decoding(
            folder=self.folder, image_size=self.image_size, color=self.color, resize=self.resize, random_crop=crop
        )
        names = [path.relative_to(folder).as_posix() for path, _ in paths]
        return LabelledFiles.listed(names, [label for _, label in paths], decoding)

    def _decode(self, listing: dict[str, list[Path]]) -> LabelledImages:
        paths = [(path, label) for label, files in enumerate(listing.values()) for path in files]
        images = np.stack([self._image(path) for path, _ in paths])
        return LabelledImages(torch.from_numpy(images), torch.tensor([label for _, label in paths]))

    def _image(self, path: Path) -> np.ndarray:
        """One image, uint8 [C, image_size, image_size]."""
        from PIL import Image, ImageOps

        size = (self.image_size, self.image_size)
        try:
            with Image.open(path, formats=FORMATS) as image:
                # The camera's note of which side is up is part of the image.
                plain = _eight_bits(ImageOps.exif_transpose(image)).convert("RGB" if self.color == "rgb" else "L")
        except Exception as error:  # a broken file may raise anything inside a decoder
            raise InputError(f"{path}: not readable as an image: {' '.join(str(error).split())}") from None
        if self.resize == "crop":
            sized = ImageOps.fit(plain, size, Image.Resampling.BILINEAR)
        else:
            sized = plain.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(sized).reshape(self.image_size, self.image_size, -1).transpose(2, 0, 1)


def _eight_bits(image: "Image") -> "Image":
    """The image with 8 bits a channel and no transparency (composed over white), in a mode PIL converts by itself."""
    from PIL import Image

    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("32-bit grey levels, want 8 or 16 bits")
        # PIL would clip 16 bits at 255.
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point grey levels, want 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, BACKGROUND), layer)
    return image


def _listing(folder: Path, minimum: int) -> dict[str, list[Path]]:
    """The image files of each class folder, both in order of their names; hidden ones are left out."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, want one folder per class in it")
    classes = [path for path in _visible(folder) if path.is_dir()]
    listing = {path.name: _visible(path) for path in classes}
    for path in [path for files in listing.values() for path in files]:
        # A file that is silently left out would be a wrong data set.
        if path.suffix.lower() not in ENDINGS:
            raise InputError(f"{path}: no known image type (allowed: {' '.join(ENDINGS)})")
    require_counts([len(files) for files in listing.values()], list(listing), minimum, str(folder))
    return listing


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _require_same_classes(train: Sequence[str], test: Sequence[str], folder: Path) -> None:
    differing = sorted(set(train) ^ set(test))
    if differing:
        where = "train" if differing[0] in train else "test"
        counts = f"{len(train)} classes in train, {len(test)} in test"
        raise InputError(f"{folder}: {counts}, want the same; {differing[0]!r} is only in {where}")
