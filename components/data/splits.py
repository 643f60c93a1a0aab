"""The labelled images: what a dataset hands over, what later stages read, and the two data files between them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from components.data.listing import DIGEST_BYTES, Decoding, Labelled, LabelledFiles
from components.data.normalization import Normalization
from components.foundation.errors import InputError
from components.foundation.params import typed
from components.numerics.tensor_files import read_tensors, tensor_bytes, write_tensors


@dataclass(frozen=True)
class LabelledImages(Labelled):
    """Images, uint8 [N, C, H, W], with their labels, int64 [N].

    `names` are those of the files that they come from, uint8 [N, L] as in `LabelledFiles`; None where there are none.
    """

    images: Tensor
    labels: Tensor
    names: Tensor | None = None

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and labels on a device."""
        return self.images.to(device), self.labels.to(device)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def content(self) -> dict[str, Tensor]:
        """Images and labels. Under another name an image is the same image."""
        return {name: tensor for name, tensor in self.tensors().items() if name != "names"}

    def keys(self) -> list[bytes]:
        """One key per image; images of equal pixels have equal keys."""
        return [hashlib.sha256(image).digest() for image in self.images.contiguous().numpy()]


Split = LabelledImages | LabelledFiles
"""Pixels, or files where those do not fit into memory."""

S = TypeVar("S", bound=Split)


@dataclass(frozen=True)
class Source(Generic[S]):
    """A dataset as its publisher divides it; `test` and `validation` are None where there is no such official split.

    `title` is what people call it, where it is more than a name of the table. `extra` are images of a second source,
    for training alone.
    """

    train: S
    test: S | None
    classes: tuple[str, ...]
    validation: S | None = None
    title: str | None = None
    extra: S | None = None

    @property
    def parts(self) -> dict[str, S]:
        """The splits that there are, by name."""
        splits = {"train": self.train, "test": self.test, "validation": self.validation, "extra": self.extra}
        return {name: split for name, split in splits.items() if split is not None}


@dataclass(frozen=True)
class Splits(Generic[S]):
    """What every later stage reads: three disjoint splits and the statistics of `train`, which alone may be files.

    `extra` are images of a second source, for training alone, and in none of the three.
    """

    dataset: str
    classes: tuple[str, ...]
    train: S
    validation: LabelledImages
    test: LabelledImages
    normalization: Normalization
    extra: LabelledImages | None = None

    @property
    def parts(self) -> dict[str, Any]:
        """The three splits by name, and what there is of a second source."""
        extra = {} if self.extra is None else {"extra": self.extra}
        return {"train": self.train, "validation": self.validation, "test": self.test} | extra

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.train.image_shape


def require_arrays(split: Split, num_classes: int, where: str) -> None:
    """Refuses anything but uint8 [N, C, H, W] with C of 1 or 3, one int64 label per image, labels in range.

    Of files: anything but one name and one hash per label.
    """
    if isinstance(split, LabelledImages):
        _require_images(split.images, where)
        _require_names(split, where)
    elif split.names.ndim != 2 or split.hashes.shape != (len(split.names), DIGEST_BYTES):
        names, hashes = list(split.names.shape), list(split.hashes.shape)
        raise InputError(f"{where}: names are {names}, hashes {hashes}, want [N, L] and [N, {DIGEST_BYTES}]")
    count, labels = len(next(iter(split.tensors().values()))), split.labels
    if labels.dtype != torch.int64 or labels.shape != (count,):
        found = f"{labels.dtype} {list(labels.shape)}"
        raise InputError(f"{where}: labels are {found}, want torch.int64 [{count}], one per image")
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise InputError(f"{where}: label {int(labels[first])} of image {first} is not in 0..{num_classes - 1}")


def _require_images(images: Tensor, where: str) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise InputError(f"{where}: images are {images.dtype} {list(images.shape)}, want torch.uint8 [N, C, H, W]")
    if images.shape[1] not in (1, 3):
        raise InputError(f"{where}: images have {images.shape[1]} channels, want 1 or 3 (shape {list(images.shape)})")


def _require_names(split: LabelledImages, where: str) -> None:
    if (names := split.names) is not None and (names.dtype, names.ndim, len(names)) != (torch.uint8, 2, len(split)):
        raise InputError(f"{where}: names are {names.dtype} {list(names.shape)}, want torch.uint8 [{len(split)}, L]")


def require_counts(counts: Sequence[int], classes: Sequence[str], minimum: int, where: str) -> None:
    """Refuses a split in which a class has fewer than `minimum` images; names the first such class."""
    if sum(counts) == 0:
        raise InputError(f"{where}: no images at all")
    for name, count in zip(classes, counts, strict=True):
        if count < minimum:
            images = {0: "no images", 1: "a single image"}.get(count, f"{count} images")
            raise InputError(f"{where}: class {name!r} has {images}, want at least {minimum}")


def require_source(source: Source, where: str) -> Source:
    """`source`, after checking its arrays, that its splits share one image shape, and that no class is too small."""
    num_classes = len(source.classes)
    if num_classes < 2:
        raise InputError(f"{where}: {num_classes} class(es), want at least 2")
    for name, split in source.parts.items():
        require_arrays(split, num_classes, f"{where} {name}")
        least = {"train": 2, "extra": 0}.get(name, 1)
        require_counts(split.counts(num_classes), source.classes, least, f"{where} {name}")
    require_one_shape(source.parts, where)
    return source


def require_one_shape(splits: Mapping[str, Split], where: str) -> None:
    """Refuses splits whose images differ in channels, height or width."""
    (first, shape), *others = ((name, list(split.image_shape)) for name, split in splits.items())
    for name, other in others:
        if other != shape:
            raise InputError(f"{where}: {first} images are {shape}, {name} images {other}, want one shape")


def summary(splits: Splits, dropped: Mapping[str, int], cut: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """What metrics/data.json holds: per split its size, duplicates dropped and images per class; statistics; digest.

    `left_out` says how many images of a split a limit left out, of how many (see `dividing.left_out`).
    """
    sizes = {
        name: {"n": len(part), "duplicates_dropped": dropped[name], "per_class": part.counts(len(splits.classes))}
        for name, part in splits.parts.items()
    }
    statistics = {"classes": splits.classes, "normalization": asdict(splits.normalization)}
    left_out = {"left_out": {key: {"images": few, "of": many} for key, (few, many) in cut.items()}} if cut else {}
    return {"dataset": splits.dataset, "digest": digest(splits.parts), **sizes, **left_out, **statistics}


def digest(splits: Mapping[str, Split]) -> str:
    """SHA-256, in hex, of shapes and bytes of all images (or of their listing) and labels."""
    whole = hashlib.sha256()
    for name, split in splits.items():
        whole.update(f"{name} {[len(split), *split.image_shape]}".encode())
        for tensor in split.content().values():
            whole.update(tensor_bytes(tensor))
    return whole.hexdigest()


def write_source(path: Path | str, dataset: str, source: Source) -> None:
    """Writes the raw data file."""
    tensors = {key: tensor for name, part in source.parts.items() for key, tensor in _tensors(name, part).items()}
    write_tensors(path, tensors, {"dataset": dataset, "classes": source.classes} | _decoding(source.train))


def read_source(path: Path | str) -> tuple[str, Source]:
    """The dataset's name and images from the raw data file, checked again. Errors: missing, broken, foreign file."""
    tensors, metadata = read_tensors(path)
    dataset, classes = _names(metadata, path)
    others = {
        name: _split(tensors, metadata, name, path) for name in ("test", "validation") if f"{name}.labels" in tensors
    }
    train, extra = _split(tensors, metadata, "train", path), _extra(tensors, path)
    source = Source(train, others.get("test"), classes, others.get("validation"), extra=extra)
    return dataset, require_source(source, str(path))


def write_splits(path: Path | str, splits: Splits) -> None:
    """Writes the normalised data file: splits as uint8, and the statistics that the models' first layer applies."""
    tensors = {key: tensor for name, part in splits.parts.items() for key, tensor in _tensors(name, part).items()}
    normalization = asdict(splits.normalization)
    metadata = {"dataset": splits.dataset, "classes": splits.classes, "normalization": normalization}
    write_tensors(path, tensors, metadata | _decoding(splits.train))


def read_splits(path: Path | str) -> Splits:
    """The content of the normalised data file, checked again. Errors: missing, broken, foreign file."""
    tensors, metadata = read_tensors(path)
    dataset, classes = _names(metadata, path)
    normalization = typed(Normalization, metadata.get("normalization"), f"{path}: normalization")
    train = _split(tensors, metadata, "train", path)
    validation, test = _labelled(tensors, "validation", path), _labelled(tensors, "test", path)
    splits = Splits(dataset, classes, train, validation, test, normalization, _extra(tensors, path))
    for name, split in splits.parts.items():
        require_arrays(split, len(classes), f"{path} {name}")
        if not len(split):
            raise InputError(f"{path} {name}: no images at all")
    require_one_shape(splits.parts, str(path))
    normalization.require_channels(splits.image_shape[0], f"{path}: normalization")
    return splits


def _tensors(name: str, split: Split) -> dict[str, Tensor]:
    return {f"{name}.{key}": tensor for key, tensor in split.tensors().items()}


def _decoding(split: Split) -> dict[str, Any]:
    return {"decoding": asdict(split.decoding)} if isinstance(split, LabelledFiles) else {}


def _split(tensors: Mapping[str, Tensor], metadata: Any, name: str, path: Path | str) -> Split:
    if f"{name}.hashes" not in tensors:
        return _labelled(tensors, name, path)
    decoding = typed(Decoding, metadata.get("decoding"), f"{path}: decoding")
    names, hashes, labels = (tensors[f"{name}.{key}"] for key in ("names", "hashes", "labels"))
    return LabelledFiles(names, hashes, labels, decoding)


def _extra(tensors: Mapping[str, Tensor], path: Path | str) -> LabelledImages | None:
    return _labelled(tensors, "extra", path) if "extra.labels" in tensors else None


def _labelled(tensors: Mapping[str, Tensor], name: str, path: Path | str) -> LabelledImages:
    try:
        return LabelledImages(tensors[f"{name}.images"], tensors[f"{name}.labels"], tensors.get(f"{name}.names"))
    except KeyError as error:
        raise InputError(f"{path}: no tensor {error.args[0]!r}, so no data file of this pipeline") from None


def _names(metadata: Any, path: Path | str) -> tuple[str, tuple[str, ...]]:
    if not isinstance(metadata, dict) or not {"dataset", "classes"} <= set(metadata):
        raise InputError(f"{path}: no metadata on data set and classes, so no data file of this pipeline")
    return typed(str, metadata["dataset"], f"{path}: dataset"), class_names(metadata["classes"], path)


def class_names(value: Any, path: Path | str) -> tuple[str, ...]:
    """The classes' names in a file's metadata. Error: anything but a list of texts, of which none is there twice."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in cast(list[Any], value)):
        raise InputError(f"{path}: classes are {_shown(value)}, want a list of names")
    if len(set(names := cast(list[str], value))) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: two classes are called {twice!r}, want names that differ")
    return tuple(names)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
