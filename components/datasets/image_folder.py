"""A user's own images: one folder per class, any size and mode, decoded to one size, or listed to be streamed."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from components.data.decoding import chunks, in_memory
from components.data.listing import Decoding, LabelledFiles
from components.data.splits import Source, Split
from components.datasets.parts.class_folders import class_folders, require_no_other_split, require_same_classes
from components.foundation.errors import InputError, printable
from components.foundation.params import Count, Real, strict

SPLITS = ("train", "test", "val")


@strict
class Streamed:
    """The train split stays in its files, which worker processes decode while training (see docs/streaming.md).

    `random_crop` is the smallest share of an image's area that a random crop keeps; null: no random crops.
    """

    random_crop: Annotated[Real, Field(gt=0, le=1)] | None  # Least share of an image that a crop keeps; null: none.


@strict
class ImageFolder:
    """Images under `folder/train/CLASS/` and, if there are any, `folder/test/CLASS/` and `folder/val/CLASS/`.

    Classes in order of their names. `val` is the validation split, or the test split where there is no other.
    """

    folder: str  # Absolute, or relative to where the command runs.
    image_size: Count  # Height and width of the result, in pixels.
    color: Literal["rgb", "gray"]  # Three channels, or one.
    resize: Literal["crop", "stretch"]  # `crop` cuts the middle square; `stretch` changes the aspect ratio.
    streamed: Streamed | None  # How files are decoded while training; null decodes every image now.

    def load(self, root: Path) -> Source:
        """Every image, decoded or listed; all are decoded once here. `root` is not used.

        Errors, with the file or the class: missing folder, no images, a class with too few, classes that differ between
        the splits, a file that is no whole image, whatever else is there and would be left out.
        """
        folder = Path(self.folder).expanduser()
        listings = {"train": class_folders(folder / "train", minimum=2)}
        classes = tuple(listings["train"])
        if len(classes) < 2:
            raise InputError(f"{printable(folder / 'train')}: {len(classes)} class folder(s), want at least 2")
        require_no_other_split(folder, SPLITS, classes)
        for split in [name for name in SPLITS[1:] if (folder / name).exists()]:
            listings[split] = class_folders(folder / split, minimum=1)
            require_same_classes(classes, tuple(listings[split]), split, folder)
        splits = {name: self._read(listing) for name, listing in listings.items()}
        if "test" not in splits:
            # ImageNet calls its test split val.
            return Source(splits["train"], splits.get("val"), classes)
        return Source(splits["train"], splits["test"], classes, splits.get("val"))

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
