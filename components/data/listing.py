"""Labelled image files: what a data file holds of a split whose pixels do not fit into memory."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.params import Real, strict
from components.foundation.storage import require_bytes

DIGEST_BYTES = 32
READERS = 8
"""How many files are read at the same time while they are listed: most of the time goes into waiting for the disk."""


@strict
class Decoding:
    """Where the files are and how each becomes pixels, uint8 [channels, image_size, image_size].

    Fields:
        folder: absolute, or relative to where the command runs.
        image_size: height and width of the result, in pixels.
        color: three channels or one.
        resize: `crop` cuts the middle square of the image's shorter side, `stretch` changes the aspect ratio.
        random_crop: while training, the smallest share of the image's area that a random crop keeps; null: none.
    """

    folder: str
    image_size: int
    color: Literal["rgb", "gray"]
    resize: Literal["crop", "stretch"]
    random_crop: Real | None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (3 if self.color == "rgb" else 1, self.image_size, self.image_size)


class Labelled:
    """Labels, int64 [N], and what has one row for each; a frozen dataclass whose tensors a data file holds."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> dict[str, Tensor]:
        """What a data file holds of this split, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def content(self) -> dict[str, Tensor]:
        """What two equal splits have in common: of files their names too, of images not."""
        return self.tensors()

    def take(self, indices: Tensor) -> Self:
        """The chosen rows, in the order of `indices`."""
        return replace(cast(Any, self), **{name: tensor[indices] for name, tensor in self.tensors().items()})

    def counts(self, num_classes: int) -> list[int]:
        """Rows per class."""
        return torch.bincount(self.labels, minlength=num_classes).tolist()


@dataclass(frozen=True)
class LabelledFiles(Labelled):
    """Image files with their labels, int64 [N].

    `names` are paths relative to `decoding.folder`, uint8 [N, L], zeros behind the shorter ones; `hashes` are the
    SHA-256 of the files' bytes, uint8 [N, 32]. All are tensors, so that worker processes share three
    tensors and not a million objects.
    """

    names: Tensor
    hashes: Tensor
    labels: Tensor
    decoding: Decoding

    @classmethod
    def listed(cls, names: Sequence[str], labels: Sequence[int], decoding: Decoding) -> "LabelledFiles":
        """These files, each read once for its hash. Errors: a file that cannot be read."""
        folder = Path(decoding.folder).expanduser()
        with ThreadPoolExecutor(READERS) as readers:
            digests = b"".join(readers.map(lambda name: hashlib.sha256(_bytes(folder / name)).digest(), names))
        hashes = torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(-1, DIGEST_BYTES)
        return cls(_packed(names), hashes, torch.tensor(labels), decoding)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of the decoded images."""
        return self.decoding.image_shape

    def keys(self) -> list[bytes]:
        """One key per file; files of equal bytes have equal keys."""
        return [row.tobytes() for row in self.hashes.contiguous().numpy()]

    def path(self, index: int) -> Path:
        """Where a file is."""
        return Path(self.decoding.folder).expanduser() / os.fsdecode(_name(self.names[index]))

    def read(self, index: int) -> bytes:
        """A file's bytes. Errors: missing, unreadable, or no longer the file that was listed."""
        path = self.path(index)
        data = _bytes(path)
        if hashlib.sha256(data).digest() != self.hashes[index].numpy().tobytes():
            raise InputError(
                f"{one_line(path)}: changed since it was listed, run fetch_data again (dvc repro -f -s fetch_data)"
            )
        return data


def _bytes(path: Path) -> bytes:
    try:
        require_bytes(path)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{one_line(path)}: {error.strerror or error}") from None


def file_names(names: Tensor) -> list[str]:
    """Packed names [N, L] as text for people; bytes that are no UTF-8 as `\\xff`."""
    return [_name(name).decode("utf-8", "backslashreplace") for name in names.cpu()]


def _name(packed: Tensor) -> bytes:
    return packed.numpy().tobytes().rstrip(b"\0")


def _packed(names: Sequence[str]) -> Tensor:
    encoded = [os.fsencode(name) for name in names]
    length = max(map(len, encoded))
    joined = bytearray(b"".join(name.ljust(length, b"\0") for name in encoded))
    return torch.frombuffer(joined, dtype=torch.uint8).view(-1, length)
