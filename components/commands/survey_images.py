"""What a folder of labelled images holds, as far as a recipe for it depends on that. Nothing here imports torch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

from components.data.image_file import picture, size
from components.data.layout import SUFFIXES, split_folders
from components.foundation.errors import InputError
from components.foundation.lines import one_line

Side = tuple[int, int]
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

# Headers that are read for the sizes, and images that are decoded for colours and distances.
HEADERS, DECODED = 2_000, 300
# JPEG makes the channels of a grey photograph differ by a few levels.
GREY_LEVELS = 8
# Pixels this close to black or white count as either; with so many of them an image is a drawing.
EXTREME, DRAWING = 16, 0.4
USUAL, OF_DRAWINGS = Fraction(8, 255), Fraction(26, 255)


@dataclass(frozen=True)
class Survey:
    """What is in a folder of images."""

    folder: Path
    counts: Mapping[str, Mapping[str, int]]
    """Split to class to number of files; `train` alone where the folder has no splits."""
    sizes: Mapping[Side, int]
    """Width and height to number of images, of those that were looked at."""
    gray: bool
    drawing: bool
    """Most pixels are black or white."""
    apart: int
    """The smallest largest difference of a pixel, in grey levels, between decoded images of two classes."""

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.counts["train"])

    @property
    def total(self) -> int:
        """The number of files."""
        return sum(sum(split.values()) for split in self.counts.values())

    @property
    def side(self) -> int:
        """The shorter side of the image in the middle."""
        return int(median(min(size) for size, count in self.sizes.items() for _ in range(count)))

    @property
    def square(self) -> bool:
        """Whether every image is a square."""
        return all(width == height for width, height in self.sizes)


def survey(folder: Path) -> Survey:
    """Looks at every name in the folder, at some headers and at some images.

    Errors: no folder, no class folders, no images in them, a file among those looked at that is no image.
    """
    if find_spec("PIL") is None:
        raise InputError("init: needs pillow, which is not installed (pip install '.[data]')")
    files = {split: _class_files(path) for split, path in split_folders(folder).items()}
    if not any(map(len, files["train"].values())):
        raise InputError(f"--images: {one_line(folder)}: no images in it, want CLASS/*.png or train/CLASS/*.png")
    train = files["train"]
    looked = [_side(path) for path in _some(list(train.values()), HEADERS)]
    some = {name: list(_some([paths], max(2, DECODED // len(train)))) for name, paths in train.items()}
    decoded = {name: [_pixels(path) for path in paths] for name, paths in some.items()}
    gray = all(_is_gray(pixels) for images in decoded.values() for pixels in images)
    return Survey(
        folder=folder,
        counts={split: {name: len(paths) for name, paths in listing.items()} for split, listing in files.items()},
        sizes=Counter(looked),
        gray=gray,
        drawing=_is_drawing([pixels for images in decoded.values() for pixels in images]),
        apart=_apart(list(decoded.values())),
    )


def epsilon_for(found: Survey) -> tuple[Fraction, str]:
    """A radius of the L-infinity ball to begin with, and why this one."""
    if found.gray and found.drawing:
        epsilon, reason = OF_DRAWINGS, "usual for grey images that are mostly black or white, as Fashion-MNIST"
    else:
        epsilon, reason = USUAL, "usual for photographs, as in CIFAR-10: hardly to be seen"
    if found.apart <= 2 * epsilon * 255:
        # Larger, and one image could be turned into the other, whatever the model.
        epsilon = Fraction(max(1, found.apart // 2 - 1), 255)
        reason = "images of two classes are so much alike"
    return epsilon, f"{reason}; images of two classes differ by {found.apart} of 255 levels or more"


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """The files of every class folder, by the class; what does not belong there is refused when the images are read."""
    if not folder.is_dir():
        raise InputError(f"--images: {one_line(folder)}: no such folder, want one folder per class in it")
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return {
        path.name: sorted(file for file in path.iterdir() if file.is_file() and _is_named_as_image(file))
        for path in visible
        if path.is_dir()
    }


def _is_named_as_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _some(classes: Sequence[Sequence[Path]], most: int) -> Iterator[Path]:
    """At most so many files, evenly from the classes and from each from its first to its last."""
    share = max(1, most // max(1, len(classes)))
    for paths in classes:
        yield from (paths[i * len(paths) // share] for i in range(share)) if len(paths) > share else paths


def _side(path: Path) -> Side:
    """An image's width and height, by its header alone."""
    try:
        return size(path)
    except ValueError as error:
        raise InputError(f"{one_line(path)}: not readable as an image: {error}") from None


def _pixels(path: Path) -> Pixels:
    """An image's pixels [H, W, 3], as the data set will have them before it resizes them."""
    try:
        return np.asarray(picture(path.read_bytes(), "RGB"))
    except ValueError as error:
        raise InputError(f"{one_line(path)}: not readable as an image: {error}") from None


def _is_gray(pixels: Pixels) -> bool:
    return int(np.ptp(pixels.astype(np.int16), axis=2).max(initial=0)) <= GREY_LEVELS


def _is_drawing(images: Sequence[Pixels]) -> bool:
    extreme = [((pixels < EXTREME) | (pixels > 255 - EXTREME)).mean() for pixels in images]
    return float(np.mean(extreme)) >= DRAWING


def _apart(classes: Sequence[Sequence[Pixels]]) -> int:
    """The smallest L-infinity distance, in grey levels, between images of two classes, all seen at one small size."""
    from PIL import Image

    def small(pixels: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
        side = min(32, *pixels.shape[:2])
        return np.asarray(Image.fromarray(pixels).resize((32, 32) if side == 32 else (side, side))).astype(np.int16)

    images = [small(pixels) for images in classes for pixels in images]
    labels = [label for label, images in enumerate(classes) for _ in images]
    sides = Counter(image.shape for image in images).most_common(1)[0][0]
    whole = np.stack([image.reshape(-1) for image in images if image.shape == sides])
    kept = np.array([label for label, image in zip(labels, images, strict=True) if image.shape == sides])
    nearest = 255
    for place in range(len(whole)):
        others = whole[kept > kept[place]]
        if len(others):
            nearest = min(nearest, int(np.abs(others - whole[place]).max(axis=1).min()))
    return nearest
