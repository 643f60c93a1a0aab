"""How a dataset's images become train, validation and test: seeded, per class, without images in two of them."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from components.data.splits import S, Source, require_counts
from components.foundation.errors import InputError
from components.foundation.params import Count, PositiveFraction, strict
from components.numerics.random_numbers import derived

Duplicates = Literal["drop", "refuse"]


def stratified_split(labels: Tensor, fraction: Fraction, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the rest and of the part, both ascending, disjoint and together everything.

    The part has `round(fraction * count)` images of each class, but at least one, and leaves at least one.
    """
    counts = torch.bincount(labels).tolist()
    if 1 in counts:
        raise InputError(f"labels: class {counts.index(1)} has a single image, too few for two splits")
    return _draw(labels, _shares(counts, fraction), seed)


def _shares(counts: Sequence[int], fraction: Fraction) -> list[int]:
    """How many images of each class the part has."""
    return [min(max(round(fraction * count), 1), count - 1) if count else 0 for count in counts]


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


@strict
class Division:
    """How images become three splits: `validation` is a share of all images where the source has no test split, else of
    its train split; `test` a share of all images where it has none. A validation split of the source's own is kept.

    `duplicates` says what to do about an image that is in two splits. `train_limit` images at most are drawn, per
    class, for train and validation together, `test_limit` for test; null: all. A validation split of the source's own
    is limited as test is.
    """

    validation: PositiveFraction  # Share of all images; of the train split where there is an official test split.
    test: PositiveFraction  # Share of all images where none is given; below 1 with `validation` in sum.
    duplicates: Duplicates  # What happens to an image that is in two splits.
    train_limit: Count | None  # At most that many images for train and validation together; null: all.
    test_limit: Count | None  # At most that many test images; null: all.

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"got validation {self.validation} and test {self.test}, want a sum below 1")


def divide(source: Source[S], division: Division, seed: int) -> tuple[dict[str, S], dict[str, int]]:
    """The splits `train`, `validation` and `test`, drawn from `seed`, and how many duplicates each lost.

    Images of a second source, `extra`, lose what is in any of the three. Error: nothing is left of them.
    """
    validation: Fraction = division.validation
    num_classes, classes = len(source.classes), source.classes
    train, held_out = source.train, source.test
    if held_out is None:
        require_counts(train.counts(num_classes), classes, 3, "train (to be divided in three)")
        rest, part = stratified_split(train.labels, division.test, derived(seed, "test split"))
        train, held_out, validation = train.take(rest), train.take(part), validation / (1 - division.test)
    train = limited(train, division.train_limit, derived(seed, "train limit"))
    held_out = limited(held_out, division.test_limit, derived(seed, "test limit"))
    if source.validation is None:
        require_counts(train.counts(num_classes), classes, 2, "train (to be divided in two)")
        rest, part = stratified_split(train.labels, validation, derived(seed, "validation split"))
        train, chosen = train.take(rest), train.take(part)
    else:
        chosen = limited(source.validation, division.test_limit, derived(seed, "validation limit"))
    # First, since it is the earlier split that loses what two have in common.
    extra = {} if source.extra is None else {"extra": source.extra}
    splits = extra | {"train": train, "validation": chosen, "test": held_out}
    splits, dropped = drop_or_refuse_duplicates(splits, division.duplicates)
    if "extra" in splits and not len(splits["extra"]):
        images = f"all {dropped['extra']} images are in train, validation or test too"
        raise InputError(f"fetch_data.extra: {images} (want others, or null)")
    for name, split in ((name, split) for name, split in splits.items() if name != "extra"):
        where = f"{name} (without {dropped[name]} images that are in a later split too)" if dropped[name] else name
        require_counts(split.counts(num_classes), classes, 1, where)
    return splits, dropped


def left_out(source: Source[Any], division: Division) -> dict[str, tuple[int, int]]:
    """What the limits leave out: split -> how many images of how many; no split that keeps all.

    `train` stands for train and validation together, where both are drawn from one.
    """
    if source.test is not None:
        test = len(source.test)
    else:
        test = sum(_shares(source.train.counts(len(source.classes)), division.test))
    train = len(source.train) - (test if source.test is None else 0)
    limits = {"train": (division.train_limit, train), "test": (division.test_limit, test)}
    if source.validation is not None:
        limits["validation"] = (division.test_limit, len(source.validation))
    return {split: (many - few, many) for split, (few, many) in limits.items() if few is not None and few < many}


def limited(split: S, limit: int | None, seed: int) -> S:
    """The split, or a stratified subset of `limit` images where there are more."""
    return split if limit is None else split.take(stratified_subset(split.labels, limit, seed))


def drop_or_refuse_duplicates(splits: Mapping[str, S], rule: Duplicates) -> tuple[dict[str, S], dict[str, int]]:
    """The splits without images (or files) that occur, byte for byte, in a later one, and how many each lost.

    The last split (test) stays untouched, so that accuracies compare with published ones. Labels do not matter: the
    same image under another label is a leak too. `refuse` is an error that names the count and the first pair.
    """
    seen: dict[bytes, tuple[str, int]] = {}
    kept, dropped, first = {}, {}, None
    for name, split in reversed(list(splits.items())):
        keys = split.keys()
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
        count = f"{sum(dropped.values())} duplicate image(s) across splits, the first: {first[0]} image {first[1]} is"
        raise InputError(f"{count} {first[2]} image {first[3]} (remove them, or set duplicates: drop)")
    return {name: kept[name] for name in splits}, {name: dropped[name] for name in splits}


def stratified_indices(labels: Tensor, size: int, seed: int) -> Tensor:
    """`size` indices, ascending, each class equally often (within one) while it has images. labels: int64 [N].

    Errors: fewer than `size` labels.
    """
    if size > len(labels):
        raise InputError(f"ntk.size: got {size}, but there are only {len(labels)} images to draw from")
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[torch.argsort(labels[order], stable=True)]
    counts = torch.bincount(labels)
    place_in_class = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    return by_class[torch.argsort(place_in_class, stable=True)[:size]].sort().values


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """The places [<= count] of the first images of each class in turn, int64: one of each, then the next of each."""
    rank = torch.stack([(labels[:i] == labels[i]).sum() for i in range(len(labels))])
    return torch.argsort(rank * (int(labels.max()) + 1) + labels, stable=True)[:count]
