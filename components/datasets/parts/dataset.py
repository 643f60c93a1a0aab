"""The contract of data sets."""

from pathlib import Path
from typing import Protocol

from components.data.splits import Source


class Dataset(Protocol):
    """Loads uint8 images [N, C, H, W] and int64 labels; `root` is the folder of downloaded files."""

    def load(self, root: Path) -> Source: ...
