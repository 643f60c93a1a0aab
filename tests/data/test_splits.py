"""Splits: disjoint, exhaustive, stratified, decided by the seed; duplicates; the two data files; every message."""

from fractions import Fraction
from typing import Any

import pytest
import torch

from components.data.dividing import Division, divide, drop_or_refuse_duplicates, stratified_split, stratified_subset
from components.data.normalization import fit_normalization
from components.data.splits import (
    LabelledImages,
    Source,
    Splits,
    digest,
    read_source,
    read_splits,
    require_source,
    write_source,
    write_splits,
)
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.numerics.tensor_files import write_tensors

CLASSES = ("ant", "bee", "cat")


def labelled(counts: tuple[int, ...] = (10, 20, 30), seed: int = 0, channels: int = 1) -> LabelledImages:
    """Random images without duplicates, classes in random order."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.randint(0, 256, (len(labels), channels, 8, 8), generator=rng, dtype=torch.uint8)
    return LabelledImages(images, labels[torch.randperm(len(labels), generator=rng)])


def division(source: Source, **changes: Any) -> tuple[dict[str, LabelledImages], dict[str, int]]:
    rule: dict[str, Any] = {"validation": Ratio(1, 10), "test": Ratio(1, 5), "duplicates": "drop"}
    rule |= {"train_limit": None, "test_limit": None, "seed": 0} | changes
    return divide(source, seed=rule.pop("seed"), division=Division(**rule))


def rows(split: LabelledImages) -> list[bytes]:
    return [image.numpy().tobytes() for image in split.images]


@pytest.mark.parametrize("fraction", [Fraction(1, 10), Fraction(1, 3), Fraction(1, 2), Fraction(9, 10)])
@pytest.mark.parametrize("counts", [(10, 20, 30), (2, 3, 4), (7, 7, 500)])
def test_split_is_disjoint_exhaustive_and_stratified(fraction, counts):
    labels = labelled(counts).labels
    rest, part = stratified_split(labels, fraction, seed=0)
    assert sorted(rest.tolist() + part.tolist()) == list(range(len(labels)))
    assert rest.tolist() == sorted(rest.tolist()) and part.tolist() == sorted(part.tolist())
    want = [min(max(round(count * fraction), 1), count - 1) for count in counts]
    assert torch.bincount(labels[part]).tolist() == want


def test_split_is_decided_by_the_seed():
    labels = labelled().labels
    first, again, other = (stratified_split(labels, Fraction(1, 5), seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_split_draws_from_the_whole_class():
    labels = torch.arange(2).repeat_interleave(200)
    part = stratified_split(labels, Fraction(1, 2), seed=0)[1]
    # Half of each class, spread over it: the first half holds about half of the drawn ones.
    assert 30 < int((part < 100).sum()) < 70


def test_split_refuses_a_single_image():
    with pytest.raises(InputError, match="class 1 has a single image"):
        stratified_split(torch.tensor([0, 0, 1]), Fraction(1, 2), seed=0)


@pytest.mark.parametrize("size", [3, 7, 30, 59])
def test_subset_has_the_exact_size_and_the_shares(size):
    labels = labelled().labels
    subset = stratified_subset(labels, size, seed=0)
    assert len(subset) == size == len(set(subset.tolist()))
    for count, whole in zip(torch.bincount(labels[subset], minlength=3).tolist(), (10, 20, 30), strict=True):
        assert abs(count - whole * size / 60) < 1


def test_subset_of_too_few_is_everything():
    labels = labelled().labels
    assert torch.equal(stratified_subset(labels, 60, seed=0), torch.arange(60))
    assert torch.equal(stratified_subset(labels, 1000, seed=0), torch.arange(60))


def test_source_without_test_split_is_divided_in_three():
    source = Source(labelled((100, 200, 300)), None, CLASSES)
    splits, dropped = division(source)
    assert {name: split.counts(3) for name, split in splits.items()} == {
        "train": [70, 140, 210],
        "validation": [10, 20, 30],
        "test": [20, 40, 60],
    }
    assert dropped == {"train": 0, "validation": 0, "test": 0}
    assert sorted(row for split in splits.values() for row in rows(split)) == sorted(rows(source.train))


def test_official_test_split_is_kept():
    source = Source(labelled((100, 100, 100)), labelled((5, 5, 5), seed=9), CLASSES)
    splits, _ = division(source)
    assert splits["validation"].counts(3) == [10, 10, 10] and splits["train"].counts(3) == [90, 90, 90]
    assert source.test is not None and torch.equal(splits["test"].images, source.test.images)


def test_official_validation_split_is_kept_and_loses_no_image_of_train():
    official = labelled((8, 8, 8), seed=8)
    for test in (labelled((5, 5, 5), seed=9), None):
        source = Source(labelled((100, 100, 100)), test, CLASSES, official)
        splits, _ = division(source)
        assert torch.equal(splits["validation"].images, official.images)
        assert splits["train"].counts(3) == ([100, 100, 100] if test else [80, 80, 80])
        limited, _ = division(source, train_limit=60, test_limit=3)
        assert {name: len(split) for name, split in limited.items()} == {"train": 60, "validation": 3, "test": 3}


def test_an_image_of_train_that_is_in_the_official_validation_split_goes():
    train, official = labelled((20, 20, 20), seed=1), labelled((5, 5, 5), seed=2)
    train.images[3] = official.images[4]
    splits, dropped = division(Source(train, labelled((5, 5, 5), seed=9), CLASSES, official))
    assert dropped == {"train": 1, "validation": 0, "test": 0} and len(splits["validation"]) == 15


def test_labels_stay_with_their_images():
    source = Source(labelled((100, 200, 300)), None, CLASSES)
    label_of = dict(zip(rows(source.train), source.train.labels.tolist(), strict=True))
    splits, _ = division(source)
    for split in splits.values():
        assert [label_of[row] for row in rows(split)] == split.labels.tolist()


def test_limits_are_taken_before_validation():
    source = Source(labelled((100, 100, 100)), labelled((50, 50, 50), seed=9), CLASSES)
    splits, _ = division(source, train_limit=60, test_limit=9)
    assert {name: split.counts(3) for name, split in splits.items()} == {
        "train": [18, 18, 18],
        "validation": [2, 2, 2],
        "test": [3, 3, 3],
    }


def test_division_is_decided_by_the_seed():
    source = Source(labelled((100, 200, 300)), None, CLASSES)
    first, again, other = (digest(division(source, seed=seed)[0]) for seed in (3, 3, 4))
    assert first == again != other


def with_copies() -> dict[str, LabelledImages]:
    """Train holds two images of test and one of validation, validation one of test; some repeat one of their own."""
    train, validation, test = (labelled((10, 10, 10), seed) for seed in (1, 2, 3))
    train.images[[4, 5, 6]] = torch.stack([test.images[0], test.images[1], validation.images[2]])
    train.images[8] = train.images[7]
    validation.images[9] = test.images[5]
    test.images[20] = test.images[21]
    return {"train": train, "validation": validation, "test": test}


def test_duplicates_are_dropped_from_train_first_and_never_from_test():
    before = with_copies()
    after, dropped = drop_or_refuse_duplicates(before, "drop")
    assert dropped == {"train": 3, "validation": 1, "test": 0}
    assert list(after) == ["train", "validation", "test"]
    assert torch.equal(after["test"].images, before["test"].images)
    assert [len(split) for split in after.values()] == [27, 29, 30]
    parts = [set(rows(split)) for split in after.values()]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert torch.equal(after["train"].labels, before["train"].labels[[i for i in range(30) if i not in (4, 5, 6)]])


def test_the_same_image_with_another_label_is_a_duplicate():
    image = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    pair = {"train": LabelledImages(image, torch.tensor([0])), "test": LabelledImages(image, torch.tensor([1]))}
    assert drop_or_refuse_duplicates(pair, "drop")[1] == {"train": 1, "test": 0}


def test_duplicates_are_refused_with_count_and_first_pair():
    with pytest.raises(InputError, match=r"^4 duplicate .* first: train image 4 is test image 0 ") as caught:
        drop_or_refuse_duplicates(with_copies(), "refuse")
    assert "\n" not in str(caught.value)


def test_refuse_is_silent_without_duplicates():
    splits = {"train": labelled(seed=1), "test": labelled(seed=2)}
    assert drop_or_refuse_duplicates(splits, "refuse")[1] == {"train": 0, "test": 0}


def changed(**fields: torch.Tensor) -> LabelledImages:
    good = labelled()
    return LabelledImages(fields.get("images", good.images), fields.get("labels", good.labels))


TOO_HIGH, NEGATIVE = labelled().labels, labelled().labels - 1
TOO_HIGH[7] = 3
FOUR = torch.zeros(60, 4, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (changed(images=labelled().images.float()), None, r"set train: images are torch.float32 \[60, 1, 8, 8\]"),
        (changed(images=labelled().images[:, 0]), None, r"set train: images are torch.uint8 \[60, 8, 8\], want"),
        (changed(images=FOUR), None, "set train: images have 4 channels, want 1 or 3"),
        (changed(labels=labelled().labels.int()), None, r"set train: labels are torch.int32 \[60\], want torch.int64"),
        (changed(labels=labelled().labels[1:]), None, r"set train: labels are torch.int64 \[59\], want .* \[60\]"),
        (changed(labels=TOO_HIGH), None, r"set train: label 3 of image 7 is not in 0\.\.2"),
        (changed(labels=NEGATIVE), None, r"set train: label -1 of image \d+ is not in 0\.\.2"),
        (labelled((0, 0, 0)), None, "set train: no images at all"),
        (labelled((5, 0, 5)), None, "set train: class 'bee' has no images, want at least 2"),
        (labelled((5, 5, 1)), None, "set train: class 'cat' has a single image, want at least 2"),
        (labelled(), labelled((5, 0, 5)), "set test: class 'bee' has no images, want at least 1"),
        (labelled(), labelled((5, 5, 5, 5)), r"set test: label 3 of image \d+ is not in 0\.\.2"),
        (labelled(), labelled(channels=3), r"set: train images are \[1, 8, 8\], test images \[3, 8, 8\]"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(train, test, message):
    with pytest.raises(InputError, match=message) as caught:
        require_source(Source(train, test, CLASSES), "set")
    assert "\n" not in str(caught.value)


def test_one_class_is_refused():
    with pytest.raises(InputError, match=r"set: 1 class\(es\), want at least 2"):
        require_source(Source(labelled((5,)), None, ("ant",)), "set")


@pytest.mark.parametrize(
    ("counts", "test", "changes", "message"),
    [
        ((9, 9, 2), None, {}, r"train \(to be divided in three\): class 'cat' has 2 images, want at least 3"),
        ((9, 9, 9), (5, 5, 5), {"train_limit": 4}, r"train \(to be divided in two\): class '\w+' has a single image"),
        ((9, 9, 9), (5, 5, 5), {"test_limit": 2}, "test: class 'cat' has no images, want at least 1"),
    ],
)
def test_too_few_images_to_divide(counts, test, changes, message):
    source = Source(labelled(counts), labelled(test, seed=9) if test else None, CLASSES)
    with pytest.raises(InputError, match=message):
        division(source, **changes)


def test_a_class_that_only_repeats_the_test_split_is_refused():
    train, test = labelled((20, 20, 3), seed=1), labelled((5, 5, 3), seed=2)
    train.images[train.labels == 2] = test.images[test.labels == 2]
    with pytest.raises(InputError, match=r"train \(without . images .* too\): class 'cat' has no images"):
        division(Source(train, test, CLASSES))


@pytest.mark.parametrize("test", [None, labelled((5, 5, 5), seed=9)])
@pytest.mark.parametrize("validation", [None, labelled((4, 4, 4), seed=8)])
def test_raw_file_gives_back_what_was_written(tmp_path, test, validation):
    source = Source(labelled(), test, CLASSES, validation)
    write_source(tmp_path / "raw.safetensors", "set", source)
    name, found = read_source(tmp_path / "raw.safetensors")
    assert (name, found.classes) == ("set", CLASSES)
    assert torch.equal(found.train.images, source.train.images) and torch.equal(found.train.labels, source.train.labels)
    assert (found.test is None) == (test is None)


def splits_of(seed: int = 0) -> Splits:
    parts, _ = division(Source(labelled((100, 100, 100)), None, CLASSES), seed=seed)
    return Splits("set", CLASSES, normalization=fit_normalization(parts["train"].images, "standardize"), **parts)


def test_normalized_file_gives_back_what_was_written_and_equal_bytes(tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    write_splits(one, splits_of())
    write_splits(two, splits_of())
    found = read_splits(one)
    assert one.read_bytes() == two.read_bytes()
    assert (found.dataset, found.classes, found.image_shape) == ("set", CLASSES, (1, 8, 8))
    assert found.normalization == splits_of().normalization
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(found, name).images, getattr(splits_of(), name).images)
        assert torch.equal(getattr(found, name).labels, getattr(splits_of(), name).labels)


def test_digest_sees_pixels_labels_and_the_split():
    split = labelled()
    pixel, label = split.images.clone(), split.labels.clone()
    pixel[0, 0, 0, 0] ^= 1
    label[0] = (label[0] + 1) % 3
    kinds = [{"train": split}, {"test": split}, {"train": changed(images=pixel)}, {"train": changed(labels=label)}]
    assert len({digest(kind) for kind in kinds}) == 4


@pytest.mark.parametrize("read", [read_source, read_splits])
def test_broken_data_files_are_refused_in_one_line(tmp_path, read):
    path = tmp_path / "data.safetensors"
    with pytest.raises(InputError, match="no such file"):
        read(path)
    write_tensors(path, {"weights": torch.zeros(2)})
    with pytest.raises(InputError, match="no metadata on data set and classes"):
        read(path)
    write_tensors(path, {"weights": torch.zeros(2)}, {"dataset": "set", "classes": CLASSES, "normalization": NONE})
    with pytest.raises(InputError, match=r"no tensor 'train.images'"):
        read(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="truncated"):
        read(path)


NONE = {"method": "none", "offset": [0.0], "scale": [1.0]}
