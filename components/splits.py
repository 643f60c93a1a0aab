"""The labelled images: what a dataset hands over, how it becomes train, validation and test, and the two data files."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from components.errors import InputError
from components.normalization import Normalization
from components.params import typed
from components.storage import read_tensors, tensor_bytes, write_tensors

Duplicates = Literal["drop", "refuse"]


@dataclass(frozen=True)
class LabelledImages:
    """Images, uint8 [N, C, H, W], with their labels, int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "LabelledImages":
        """The chosen images, in the order of `indices`."""
        return LabelledImages(self.images[indices], self.labels[indices])

    def counts(self, num_classes: int) -> list[int]:
        """Images per class."""
        return torch.bincount(self.labels, minlength=num_classes).tolist()


@dataclass(frozen=True)
class Source:
    """A dataset as its publisher divides it; `test` is None where there is no official test split."""

    train: LabelledImages
    test: LabelledImages | None
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """What every later stage reads: three disjoint splits and the statistics of `train`."""

    dataset: str
    classes: tuple[str, ...]
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    normalization: Normalization

    @property
    def parts(self) -> dict[str, LabelledImages]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def require_arrays(split: LabelledImages, num_classes: int, where: str) -> None:
    """Refuses anything but uint8 [N, C, H, W] with C of 1 or 3, one int64 label per image, labels in range."""
    images, labels = split.images, split.labels
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise InputError(f"{where}: images are {images.dtype} {list(images.shape)}, want torch.uint8 [N, C, H, W]")
    if images.shape[1] not in (1, 3):
        raise InputError(f"{where}: images have {images.shape[1]} channels, want 1 or 3 (shape {list(images.shape)})")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise InputError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)}, want torch.int64 [{len(images)}], one per image"
        )
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise InputError(f"{where}: label {int(labels[first])} of image {first} is not in 0..{num_classes - 1}")


def require_counts(counts: Sequence[int], classes: Sequence[str], minimum: int, where: str) -> None:
    """Refuses a split in which a class has fewer than `minimum` images; names the first such class."""
    if sum(counts) == 0:
        raise InputError(f"{where}: no images at all")
    for name, count in zip(classes, counts, strict=True):
        if count < minimum:
            images = {0: "no images", 1: "a single image"}.get(count, f"{count} images")
            raise InputError(f"{where}: class {name!r} has {images}, want at least {minimum}")


def require_source(source: Source, where: str) -> Source:
    """`source`, after checking its arrays, that both splits share one image shape, and that no class is too small."""
    num_classes = len(source.classes)
    if num_classes < 2:
        raise InputError(f"{where}: {num_classes} class(es), want at least 2")
    require_arrays(source.train, num_classes, f"{where} train")
    require_counts(source.train.counts(num_classes), source.classes, 2, f"{where} train")
    if source.test is not None:
        require_arrays(source.test, num_classes, f"{where} test")
        require_counts(source.test.counts(num_classes), source.classes, 1, f"{where} test")
        require_one_shape({"train": source.train, "test": source.test}, where)
    return source


def require_one_shape(splits: Mapping[str, LabelledImages], where: str) -> None:
    """Refuses splits whose images differ in channels, height or width."""
    (first, shape), *others = ((name, list(split.images.shape[1:])) for name, split in splits.items())
    for name, other in others:
        if other != shape:
            raise InputError(f"{where}: {first} images are {shape}, {name} images {other}, want one shape")


def stratified_split(labels: Tensor, fraction: Fraction, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the rest and of the part, both ascending, disjoint and together everything.

    The part has `round(fraction * count)` images of each class, but at least one, and leaves at least one.
    """
    counts = torch.bincount(labels).tolist()
    for label, count in enumerate(counts):
        if count == 1:
            raise InputError(f"labels: class {label} has a single image, too few for two splits")
    taken = [min(max(round(fraction * count), 1), count - 1) if count else 0 for count in counts]
    return _draw(labels, taken, seed)


def stratified_subset(labels: Tensor, size: int, seed: int) -> Tensor:
    """Ascending indices of `size` images whose classes are as frequent as in `labels` (largest remainders round up)."""
    if size >= len(labels):
        return torch.arange(len(labels))
    shares = [Fraction(count * size, len(labels)) for count in torch.bincount(labels).tolist()]
    taken = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda label: taken[label] - shares[label])
    for label in by_remainder[: size - sum(taken)]:
        taken[label] += 1
    return _draw(labels, taken, seed)[1]


def _draw(labels: Tensor, num_taken: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Indices left and indices taken, `num_taken[label]` at random from each class."""
    rng = torch.Generator().manual_seed(seed)
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(num_taken):
        members = (labels == label).nonzero().squeeze(1)
        taken[members[torch.randperm(len(members), generator=rng)[:count]]] = True
    return (~taken).nonzero().squeeze(1), taken.nonzero().squeeze(1)


def divide(
    source: Source,
    *,
    validation: Fraction,
    test: Fraction,
    duplicates: Duplicates,
    train_limit: int | None,
    test_limit: int | None,
    seed: int,
) -> tuple[dict[str, LabelledImages], dict[str, int]]:
    """The splits `train`, `validation` and `test`, and how many duplicates each lost.

    Args:
        validation: share of all images where the source has no test split, else of its train split.
        test: share of all images; not used where the source has a test split.
        duplicates: what to do about an image that is in two splits.
        train_limit: at most this many images for train and validation together, drawn per class.
        test_limit: at most this many images for test.
        seed: decides which images go where.
    """
    num_classes, classes = len(source.classes), source.classes
    train, held_out = source.train, source.test
    if held_out is None:
        require_counts(train.counts(num_classes), classes, 3, "train (to be divided in three)")
        rest, part = stratified_split(train.labels, test, seed)
        train, held_out, validation = train.take(rest), train.take(part), validation / (1 - test)
    train, held_out = limited(train, train_limit, seed), limited(held_out, test_limit, seed)
    require_counts(train.counts(num_classes), classes, 2, "train (to be divided in two)")
    rest, part = stratified_split(train.labels, validation, seed)
    splits = {"train": train.take(rest), "validation": train.take(part), "test": held_out}
    splits, dropped = drop_or_refuse_duplicates(splits, duplicates)
    for name, split in splits.items():
        require_counts(split.counts(num_classes), classes, 1, name)
    return splits, dropped


def limited(split: LabelledImages, limit: int | None, seed: int) -> LabelledImages:
    """The split, or a stratified subset of `limit` images where there are more."""
    return split if limit is None else split.take(stratified_subset(split.labels, limit, seed))


def drop_or_refuse_duplicates(
    splits: Mapping[str, LabelledImages], rule: Duplicates
) -> tuple[dict[str, LabelledImages], dict[str, int]]:
    """The splits without images that occur, byte for byte, in a later one, and how many each lost.

    The last split (test) stays untouched, so that accuracies compare with published ones. Labels do not matter: the
    same image under another label is a leak too. `refuse` is an error that names the count and the first pair.
    """
    seen: dict[bytes, tuple[str, int]] = {}
    kept, dropped, first = {}, {}, None
    for name, split in reversed(list(splits.items())):
        keys = [hashlib.sha256(image).digest() for image in split.images.contiguous().numpy()]
        repeated = [index for index, key in enumerate(keys) if key in seen]
        if repeated:
            first = (name, repeated[0], *seen[keys[repeated[0]]])
        fresh = torch.ones(len(keys), dtype=torch.bool)
        fresh[repeated] = False
        kept[name], dropped[name] = split.take(fresh.nonzero().squeeze(1)), len(repeated)
        # Only after the whole split: repeats inside one split are no leak.
        for index, key in enumerate(keys):
            seen.setdefault(key, (name, index))
    if rule == "refuse" and first:
        found = f"{sum(dropped.values())} duplicate image(s) across splits, the first: {first[0]} image {first[1]} is"
        raise InputError(f"{found} {first[2]} image {first[3]} (remove them, or set duplicates: drop)")
    return {name: kept[name] for name in splits}, {name: dropped[name] for name in splits}


def summary(splits: Splits, dropped: Mapping[str, int]) -> dict[str, Any]:
    """What metrics/data.json holds: per split its size, duplicates dropped and images per class; statistics; digest."""
    sizes = {
        name: {"n": len(part), "duplicates_dropped": dropped[name], "per_class": part.counts(len(splits.classes))}
        for name, part in splits.parts.items()
    }
    statistics = {"classes": splits.classes, "normalization": asdict(splits.normalization)}
    return {"dataset": splits.dataset, "digest": digest(splits.parts), **sizes, **statistics}


def digest(splits: Mapping[str, LabelledImages]) -> str:
    """SHA-256, in hex, of names, shapes and bytes of all images and labels."""
    whole = hashlib.sha256()
    for name, split in splits.items():
        whole.update(f"{name} {list(split.images.shape)}".encode())
        whole.update(tensor_bytes(split.images))
        whole.update(tensor_bytes(split.labels))
    return whole.hexdigest()


def write_source(path: Path | str, dataset: str, source: Source) -> None:
    """Writes the raw data file."""
    tensors = _tensors("train", source.train) | (_tensors("test", source.test) if source.test else {})
    write_tensors(path, tensors, {"dataset": dataset, "classes": source.classes})


def read_source(path: Path | str) -> tuple[str, Source]:
    """The dataset's name and images from the raw data file, checked again. Errors: missing, broken, foreign file."""
    tensors, metadata = read_tensors(path)
    dataset, classes = _names(metadata, path)
    test = _labelled(tensors, "test", path) if "test.images" in tensors else None
    return dataset, require_source(Source(_labelled(tensors, "train", path), test, classes), str(path))


def write_splits(path: Path | str, splits: Splits) -> None:
    """Writes the normalised data file: splits as uint8, and the statistics that the models' first layer applies."""
    tensors = {}
    for name, part in splits.parts.items():
        tensors |= _tensors(name, part)
    normalization = asdict(splits.normalization)
    write_tensors(path, tensors, {"dataset": splits.dataset, "classes": splits.classes, "normalization": normalization})


def read_splits(path: Path | str) -> Splits:
    """The content of the normalised data file, checked again. Errors: missing, broken, foreign file."""
    tensors, metadata = read_tensors(path)
    dataset, classes = _names(metadata, path)
    normalization = typed(Normalization, metadata.get("normalization"), f"{path}: normalization")
    parts = {name: _labelled(tensors, name, path) for name in ("train", "validation", "test")}
    for name, split in parts.items():
        require_arrays(split, len(classes), f"{path} {name}")
        if not len(split):
            raise InputError(f"{path} {name}: no images at all")
    require_one_shape(parts, str(path))
    return Splits(dataset=dataset, classes=classes, normalization=normalization, **parts)


def _tensors(name: str, split: LabelledImages) -> dict[str, Tensor]:
    return {f"{name}.images": split.images, f"{name}.labels": split.labels}


def _labelled(tensors: Mapping[str, Tensor], name: str, path: Path | str) -> LabelledImages:
    try:
        return LabelledImages(tensors[f"{name}.images"], tensors[f"{name}.labels"])
    except KeyError as error:
        raise InputError(f"{path}: no tensor {error.args[0]!r}, so no data file of this pipeline") from None


def _names(metadata: Any, path: Path | str) -> tuple[str, tuple[str, ...]]:
    if not isinstance(metadata, dict) or not {"dataset", "classes"} <= set(metadata):
        raise InputError(f"{path}: no metadata on data set and classes, so no data file of this pipeline")
    return str(metadata["dataset"]), tuple(metadata["classes"])
