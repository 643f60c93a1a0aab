"""A second source of training images: arrays in an .npz file, or a folder of image files for each class."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.data.decoding import in_memory, require_memory
from components.data.listing import Decoding, LabelledFiles
from components.data.splits import LabelledImages
from components.datasets.parts.class_folders import class_folders
from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.memory import lack_of_memory
from components.foundation.storage import require_bytes

# How the arrays are called, here and where images are published.
IMAGES, LABELS = ("images", "image"), ("labels", "label")
REMEDY = "take fewer of them"


def read_extra(path: Path, classes: Sequence[str], image_shape: tuple[int, int, int]) -> LabelledImages:
    """The images of a second source, uint8 [N, C, H, W] of `image_shape`, with labels that count `classes`.

    An .npz file holds `images`, uint8 [N, H, W, C], [N, C, H, W] or, of one channel, [N, H, W], and `labels`, integers
    [N]; `image` and `label` will do. A folder holds a folder for each class, or for some; its images are cut to the
    middle square and resized.

    Errors: no such file; other arrays, shapes or types; a label or a folder that is no class; no images.
    """
    if path.is_dir():
        return _of_folder(path, classes, image_shape)
    return LabelledImages(*_arrays(path, len(classes), image_shape))


def _of_folder(path: Path, classes: Sequence[str], image_shape: tuple[int, int, int]) -> LabelledImages:
    listing = class_folders(path, minimum=1)
    for name in listing:
        if name not in classes:
            some = ", ".join(classes[:5]) + (", …" if len(classes) > 5 else "")
            raise InputError(f"{one_line(path / name)}: no class of the data set is called so (classes: {some})")
    channels, height, width = image_shape
    if height != width:
        raise InputError(f"{one_line(path)}: image files become squares, want an .npz file for {height} x {width}")
    color = "rgb" if channels == 3 else "gray"
    decoding = Decoding(folder=str(path), image_size=height, color=color, resize="crop", random_crop=None)
    names = [file.relative_to(path).as_posix() for files in listing.values() for file in files]
    labels = [classes.index(name) for name, files in listing.items() for _ in files]
    split = in_memory(LabelledFiles.listed(names, labels, decoding), REMEDY)
    return LabelledImages(split.images, split.labels)


def _arrays(path: Path, num_classes: int, image_shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    try:
        require_bytes(path)
        if not zipfile.is_zipfile(path):
            raise InputError(f"{one_line(path)}: no .npz file, want one with {IMAGES[0]} and {LABELS[0]}")
        with zipfile.ZipFile(path) as archive:
            require_memory(sum(entry.file_size for entry in archive.infolist()), one_line(path), REMEDY)
        # No pickle: an array of objects is an error.
        with np.load(path, allow_pickle=False) as file:
            images, labels = (_array(file, names, path) for names in (IMAGES, LABELS))
    except InputError:
        raise
    except Exception as error:
        if short := lack_of_memory(error):
            raise InputError(f"{one_line(path)}: {short}: {REMEDY}") from None
        if isinstance(error, OSError):
            raise InputError(f"{one_line(path)}: {error.strerror or error}") from None
        # The readers of archives and of arrays raise a dozen kinds of errors on damaged bytes.
        raise InputError(f"{one_line(path)}: not readable as an .npz file: {one_line(error)}") from None
    pixels = _pixels(images, image_shape, path)
    return pixels, _numbers(labels, len(pixels), num_classes, path)


def _array(file: "np.lib.npyio.NpzFile", names: Sequence[str], path: Path) -> np.ndarray:
    name = next((name for name in names if name in file.files), None)
    if name is None:
        held = ", ".join(map(repr, file.files[:5])) or "nothing"
        raise InputError(f"{one_line(path)}: no array {names[0]!r} or {names[1]!r} (it holds {one_line(held)})")
    return file[name]


def _pixels(images: np.ndarray, image_shape: tuple[int, int, int], path: Path) -> Tensor:
    channels, height, width = image_shape
    if images.dtype == np.uint8 and images.size:
        if images.shape[1:] == (height, width, channels):
            return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        if images.shape[1:] == image_shape or (channels, *images.shape[1:]) == (1, height, width):
            return torch.from_numpy(np.ascontiguousarray(images)).view(-1, *image_shape)
    want = f"uint8 [N, {height}, {width}, {channels}], N above 0"
    raise InputError(f"{one_line(path)}: images are {images.dtype} {list(images.shape)}, want {want}")


def _numbers(labels: np.ndarray, count: int, num_classes: int, path: Path) -> Tensor:
    flat = labels.reshape(-1) if labels.shape == (count, 1) else labels
    if flat.dtype.kind not in "iu" or flat.shape != (count,):
        raise InputError(f"{one_line(path)}: labels are {labels.dtype} {list(labels.shape)}, want integers [{count}]")
    if len(wrong := np.flatnonzero((flat < 0) | (flat >= num_classes))):
        first = int(wrong[0])
        raise InputError(f"{one_line(path)}: label {int(flat[first])} of image {first} is not in 0..{num_classes - 1}")
    return torch.from_numpy(flat.astype(np.int64))
