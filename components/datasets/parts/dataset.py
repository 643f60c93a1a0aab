"""The contract of data sets."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from components.data.splits import Source


class Dataset(Protocol):
    """Loads uint8 images [N, C, H, W] and int64 labels; `root` is the folder of downloaded files."""

    def load(self, root: Path) -> Source: ...


@runtime_checkable
class OfFiles(Protocol):
    """A data set of a user's files: `watched` is the folder in which a change makes it another one.

    None where there are too many files for DVC to hash, and the data set itself finds a changed one.
    """

    @property
    def watched(self) -> Path | None: ...
