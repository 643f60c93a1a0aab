"""Folders of generated JPEGs in ImageNet's layout: as many as wanted, no two files the same, written in seconds."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from components.data.listing import LabelledFiles
from components.datasets.image_folder import ImageFolder, Streamed

CLASSES = ("ant", "bee", "cat")
VARIANTS = 12


def jpeg(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    """A smooth random picture, which JPEG barely changes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    packed = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(packed, "JPEG", quality=95)
    return packed.getvalue()


def write_folder(folder: Path, train: int, val: int = 0) -> Path:
    """`train` and `val` images under folder/train/CLASS and folder/val/CLASS, the classes in turn.

    A file is one of a few pictures, of several shapes, with its own number in a comment.
    """
    sizes = ((40, 30), (30, 40), (36, 36))
    pictures = [jpeg(seed, sizes[seed % len(sizes)]) for seed in range(VARIANTS)]
    for part, count in (("train", train), ("val", val)):
        for name in CLASSES if count else ():
            (folder / part / name).mkdir(parents=True)
        for number in range(count):
            text = f"{part} {number}".encode()
            picture = pictures[number % VARIANTS]
            comment = b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text
            path = folder / part / CLASSES[number % len(CLASSES)] / f"{number:05d}.JPEG"
            path.write_bytes(picture[:2] + comment + picture[2:])
    return folder


def listed(folder: Path, image_size: int = 8, color: str = "gray", random_crop: float | None = 0.3) -> LabelledFiles:
    """The train split of such a folder."""
    fields = {"folder": str(folder), "image_size": image_size, "color": color, "resize": "crop"}
    member = ImageFolder(**fields, streamed=Streamed(random_crop=random_crop))
    train = member.load(folder).train
    assert isinstance(train, LabelledFiles)
    return train
