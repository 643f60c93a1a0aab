"""A user's own images: one folder per class, any size and mode, decoded to one size, or listed to be streamed."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from components.data.decoding import chunks, in_memory
from components.data.layout import SPLITS, split_folders
from components.data.listing import Decoding, LabelledFiles
from components.data.splits import Source, Split
from components.datasets.parts.class_folders import (
    class_folders,
    require_no_other_split,
    require_same_classes,
    subfolders,
)
from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.params import Real, strict

LONGEST_TITLE = 100


@strict
class Streamed:
    """The train split stays in its files, which worker processes decode while training (see docs/streaming.md).

    `random_crop` is the smallest share of an image's area that a random crop keeps; null: no random crops.
    """

    random_crop: Annotated[Real, Field(gt=0, le=1)] | None  # Least share of an image that a crop keeps; null: none.


@strict
class ImageFolder:
    """Images under `folder/CLASS/`, or under `folder/train/CLASS/` and, if there are any, `folder/test/CLASS/` and
    `folder/val/CLASS/`.

    Classes in order of their names. `val` is the validation split, or the test split where there is no other. Without
    either, `normalize_data` draws both.
    """

    folder: str  # Absolute, or relative to where the command runs.
    image_size: Annotated[int, Field(ge=1, le=4096)]  # Height and width of the result, in pixels.
    color: Literal["rgb", "gray"]  # Three channels, or one.
    resize: Literal["crop", "stretch"]  # `crop` cuts the middle square; `stretch` changes the aspect ratio.
    streamed: Streamed | None  # How files are decoded while training; null decodes every image now.
    title: str | None = None  # What reports call the data set; null: the name of its folder.

    def __post_init__(self) -> None:
        title = self.title
        if title is not None and not (title.isprintable() and title.strip() and len(title) <= LONGEST_TITLE):
            raise ValueError(f"got title {title!r}, want one line of text, at most {LONGEST_TITLE} characters")

    @property
    def watched(self) -> Path | None:
        """The folder; None where files are streamed, which compares the hash of each at every use."""
        return None if self.streamed else Path(self.folder).expanduser()

    def load(self, root: Path) -> Source:
        """Every image, decoded or listed; all are decoded once here. `root` is not used.

        Errors, with the file or the class: missing folder, no images, a class with too few, classes that differ between
        the splits, a file that is no whole image, whatever else is there and would be left out.
        """
        listings = self.listings()
        classes = tuple(listings["train"])
        splits = {name: self._read(listing) for name, listing in listings.items()}
        # ImageNet calls its test split val.
        test, validation = ("test", "val") if "test" in splits else ("val", "test")
        name = one_line(os.path.basename(os.path.abspath(Path(self.folder).expanduser())))
        return Source(splits["train"], splits.get(test), classes, splits.get(validation), self.title or name or None)

    def listings(self) -> dict[str, dict[str, list[Path]]]:
        """Split to class to its image files. Errors: those of `load` that show without reading a file."""
        folder = Path(self.folder).expanduser()
        folders = split_folders(folder)
        if folders["train"] == folder and folder.is_dir() and not subfolders(folder):
            raise InputError(f"{one_line(folder)}: no folder in it, want CLASS/*.png or train/CLASS/*.png")
        listings = {"train": class_folders(folders["train"], minimum=2)}
        classes = tuple(listings["train"])
        if len(classes) < 2:
            raise InputError(f"{one_line(folders['train'])}: {len(classes)} class folder(s), want at least 2")
        if folders["train"] == folder:
            return listings
        require_no_other_split(folder, SPLITS, classes)
        for split in [name for name in SPLITS[1:] if (folder / name).exists()]:
            listings[split] = class_folders(folder / split, minimum=1)
            require_same_classes(classes, tuple(listings[split]), split, folder)
        return listings

    def _read(self, listing: dict[str, list[Path]]) -> Split:
        folder, crop = Path(self.folder).expanduser(), self.streamed.random_crop if self.streamed else None
        decoding = Decoding(
            folder=self.folder, image_size=self.image_size, color=self.color, resize=self.resize, random_crop=crop
        )
        names = [path.relative_to(folder).as_posix() for files in listing.values() for path in files]
        labels = [label for label, files in enumerate(listing.values()) for _ in files]
        files = LabelledFiles.listed(names, labels, decoding)
        if not self.streamed:
            return in_memory(files, "lower image_size, or stream the files: see docs/streaming.md")
        for _ in chunks(files):
            pass  # What cannot be decoded is to be known now, and not in the middle of a training.
        return files
