"""A second source of images: every way in which it may be written is read alike, all else is one line."""

import itertools
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from components.datasets.parts.extra import read_extra
from components.foundation.errors import InputError

CLASSES = ("ant", "bee", "cow")
GREY, RGB = (1, 5, 4), (3, 6, 6)


def pixels(shape: tuple[int, int, int], count: int = 7) -> np.ndarray:
    return np.random.default_rng(1).integers(256, size=(count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("names", [("images", "labels"), ("image", "label")], ids=lambda names: names[0])
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.uint64], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("column", [False, True], ids=["row", "column"])
@pytest.mark.parametrize(("shape", "layout"), [(GREY, "none"), *itertools.product((GREY, RGB), ("last", "first"))])
def test_every_way_to_write_it_is_read_alike(shape, layout, column, kind, names, compressed, tmp_path):
    images, labels = pixels(shape), np.arange(7) % 3
    written = {"last": images.transpose(0, 2, 3, 1), "first": images, "none": images[:, 0]}[layout]
    numbers = labels.astype(kind).reshape(-1, 1) if column else labels.astype(kind)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "e.npz", **{names[0]: written, names[1]: numbers, "seed": np.array(3)})
    read = read_extra(tmp_path / "e.npz", CLASSES, shape)
    assert read.images.is_contiguous() and torch.equal(read.images, torch.from_numpy(images))
    assert torch.equal(read.labels, torch.from_numpy(labels))


GOOD = pixels(RGB).transpose(0, 2, 3, 1)
COUNT = np.zeros(7, dtype=np.int64)
WRONG = {
    "floats": ({"images": GOOD / 255, "labels": COUNT}, "images are float64 [7, 6, 6, 3], want uint8 [N, 6, 6, 3]"),
    "another size": (
        {"images": GOOD[:, :5], "labels": COUNT},
        "images are uint8 [7, 5, 6, 3], want uint8 [N, 6, 6, 3]",
    ),
    "none": ({"images": GOOD[:0], "labels": COUNT[:0]}, "images are uint8 [0, 6, 6, 3], want uint8 [N, 6, 6, 3]"),
    "a scalar": ({"images": np.uint8(3), "labels": COUNT}, "images are uint8 [], want"),
    "grey": ({"images": GOOD[..., 0], "labels": COUNT}, "images are uint8 [7, 6, 6], want"),
    "few labels": ({"images": GOOD, "labels": COUNT[:5]}, "labels are int64 [5], want integers [7]"),
    "soft labels": ({"images": GOOD, "labels": np.ones((7, 3))}, "labels are float64 [7, 3], want integers [7]"),
    "a label too high": ({"images": GOOD, "labels": COUNT + 3}, "label 3 of image 0 is not in 0..2"),
    "a label too low": ({"images": GOOD, "labels": COUNT - 1}, "label -1 of image 0 is not in 0..2"),
    "a huge label": (
        {"images": GOOD, "labels": np.full(7, 2**64 - 1, np.uint64)},
        f"label {2**64 - 1} of image 0 is not in 0..2",
    ),
    "no labels": ({"images": GOOD}, "no array 'labels' or 'label' (it holds 'images')"),
    "nothing": ({}, "no array 'images' or 'image' (it holds nothing)"),
    "objects": ({"images": np.array([{}] * 7), "labels": COUNT}, "not readable as an .npz file: "),
}


@pytest.mark.parametrize(("arrays", "said"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_one_line(arrays: dict[str, Any], said, tmp_path):
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(InputError, match=re.escape(f"e.npz: {said}")) as refused:
        read_extra(tmp_path / "e.npz", CLASSES, (3, 6, 6))
    assert "\n" not in str(refused.value)


def test_a_damaged_file_is_one_line(tmp_path):
    """Cut at every twentieth byte, and with every thirtieth byte changed: read as it was, or refused."""
    path = tmp_path / "e.npz"
    np.savez_compressed(path, images=GOOD, labels=COUNT)
    whole = path.read_bytes()
    changed = [whole[:end] for end in range(0, len(whole), 20)]
    changed += [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in range(0, len(whole), 30)]
    refused = 0
    for data in changed:
        path.write_bytes(data)
        try:
            read_extra(path, CLASSES, (3, 6, 6))
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > len(changed) / 2


def test_other_files_are_refused(tmp_path):
    np.save(tmp_path / "e.npy", GOOD)
    for name, said in {"e.npy": r"no \.npz file, want one with images and labels", "none.npz": "No such file"}.items():
        with pytest.raises(InputError, match=said):
            read_extra(tmp_path / name, CLASSES, (3, 6, 6))


def test_more_than_the_memory_holds_is_refused(tmp_path, monkeypatch):
    from components.data import decoding

    np.savez(tmp_path / "e.npz", images=GOOD, labels=COUNT)
    size = sum(entry.file_size for entry in zipfile.ZipFile(tmp_path / "e.npz").infolist())
    monkeypatch.setattr(decoding, "free_main_memory", lambda: 2 * size)
    read_extra(tmp_path / "e.npz", CLASSES, (3, 6, 6))
    monkeypatch.setattr(decoding, "free_main_memory", lambda: 2 * size - 1)
    with pytest.raises(InputError, match=r"want at most half of the 0 MiB that are free for this process \(take fewer"):
        read_extra(tmp_path / "e.npz", CLASSES, (3, 6, 6))


def write_folder(folder: Path, *names: str) -> Path:
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (9, 8), (place * 50, number, 7)).save(folder / name / f"{number}.png")
    return folder


def test_a_folder_takes_its_labels_from_the_classes(tmp_path):
    read = read_extra(write_folder(tmp_path / "more", "cow", "ant"), CLASSES, (3, 6, 6))
    assert read.labels.tolist() == [0, 0, 2, 2] and read.names is None
    assert read.images[:, 0, 0, 0].tolist() == [50, 50, 0, 0] and read.images.shape == (4, 3, 6, 6)


def test_a_folder_of_no_class_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"more/dog: no class of the data set is called so \(classes: ant, bee, cow\)"):
        read_extra(write_folder(tmp_path / "more", "ant", "dog"), CLASSES, (3, 6, 6))
    with pytest.raises(InputError, match=r"image files become squares, want an \.npz file for 5 x 4"):
        read_extra(write_folder(tmp_path / "other", "ant"), CLASSES, (1, 5, 4))
