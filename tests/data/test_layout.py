"""Where the splits of a folder of images are, and that the name of an image changes nothing but its name."""

from pathlib import Path
from random import Random

import pytest
import torch

from components.data.dividing import Division, divide, left_out
from components.data.layout import SPLITS, split_folders
from components.data.listing import Decoding, LabelledFiles, file_names
from components.data.splits import LabelledImages, Source, digest, require_arrays
from components.foundation.errors import InputError


@pytest.mark.parametrize("seed", range(20))
def test_a_split_is_a_folder_of_its_name_with_folders_in_it(tmp_path, seed):
    """Of random folders: those with a folder inside are splits; if there are none, the folder holds the classes."""
    rng = Random(seed)
    kinds = {name: rng.choice(["absent", "files", "classes", "hidden", "a file"]) for name in SPLITS}
    for name, kind in (kinds | {"ant": "files"}).items():
        if kind == "a file":
            (tmp_path / name).write_bytes(b"x")
        elif kind != "absent":
            (tmp_path / name).mkdir()
            (tmp_path / name / "0.png").write_bytes(b"x")
            if kind != "files":
                (tmp_path / name / (".cache" if kind == "hidden" else "bee")).mkdir()
    splits = {name: tmp_path / name for name in SPLITS if kinds[name] == "classes"}
    expected = {"train": tmp_path / "train", **splits} if splits else {"train": tmp_path}
    assert split_folders(tmp_path) == expected
    assert split_folders(tmp_path / "missing") == {"train": tmp_path / "missing"}


def images(count: int, names: torch.Tensor | None = None, first: int = 0) -> LabelledImages:
    pixels = torch.arange(first, first + count, dtype=torch.uint8).view(-1, 1, 1, 1)
    return LabelledImages(pixels, torch.arange(count) % 4, names)


def packed(count: int) -> torch.Tensor:
    return torch.randint(1, 256, (count, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_names_are_no_part_of_what_images_are():
    with_names = images(40, packed(40))
    assert digest({"test": with_names}) == digest({"test": images(40)})
    assert set(with_names.tensors()) == {"images", "labels", "names"} and with_names.keys() == images(40).keys()
    part = with_names.take(torch.tensor([3, 1]))
    assert part.names is not None and torch.equal(part.names, packed(40)[[3, 1]])
    with pytest.raises(InputError, match=r"x: names are torch.uint8 \[39, 5\], want torch.uint8 \[40, L\]"):
        require_arrays(images(40, packed(39)), 4, "x")


def test_names_of_any_bytes_are_shown(tmp_path):
    for name in (b"plain.png", "größe.png".encode(), b"\xff\xfe.png"):
        (tmp_path / "bytes").mkdir(exist_ok=True)
        Path(str(tmp_path / "bytes"), name.decode("utf-8", "surrogateescape")).write_bytes(b"x")
    found = sorted(path.name for path in (tmp_path / "bytes").iterdir())
    decoding = {"folder": str(tmp_path / "bytes"), "image_size": 4, "color": "gray", "resize": "crop"}
    files = LabelledFiles.listed(found, [0] * len(found), Decoding(**decoding, random_crop=None))
    shown = file_names(files.names)
    assert set(shown) == {"plain.png", "größe.png", "\\xff\\xfe.png"} and "".join(shown).encode()


@pytest.mark.parametrize("seed", range(12))
def test_what_limits_leave_out_is_what_is_missing(seed):
    """Of random sources and limits: what is said to be left out, and what is there, are together everything."""
    rng = Random(seed)
    test, validation = (rng.choice([None, images(rng.randint(8, 40), first=first)]) for first in (100, 150))
    source = Source(images(rng.randint(60, 99)), test, tuple("abcd"), validation if test else None)
    limits = {key: rng.choice([None, rng.randint(8, 90)]) for key in ("train_limit", "test_limit")}
    fractions = {"validation": "1/5", "test": "1/4"}
    division = Division(**fractions, duplicates="drop", **limits)  # pyright: ignore[reportArgumentType]
    splits, dropped = divide(source, division, seed=0)
    kept = sum(map(len, splits.values())) + sum(dropped.values())
    cut = left_out(source, division)
    assert kept + sum(few for few, _ in cut.values()) == sum(map(len, source.parts.values()))
    assert set(cut) <= {"train", "test", "validation"} and all(0 < few < many for few, many in cut.values())
