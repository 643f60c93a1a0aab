"""Stage fetch_data: the raw images of one data set, verified, in data/raw.safetensors."""

import os
from pathlib import Path
from typing import Any

from components.data.splits import digest, require_source, write_source
from components.datasets import DATASETS
from components.datasets.parts.dataset import Dataset
from components.foundation.params import Params, member, strict
from components.foundation.storage import sha256
from components.stages import run
from components.tracking.journal import Journal

RAW = Path("data/raw.safetensors")
DOWNLOADS = ".temper/downloads"


@strict
class FetchSection:
    """`dataset`: a name of the table, with that member's fields."""

    dataset: dict[str, Any]  # The dataset's name, with that member's fields.


def read(params: Params) -> tuple[str, Dataset]:
    """The name of the data set and the member, checked."""
    section = params.typed(FetchSection, "fetch_data")
    return section.dataset.get("name", ""), member(DATASETS, section.dataset, f"{params.path}: fetch_data.dataset")


def main(params: Params, journal: Journal) -> None:
    """Writes data/raw.safetensors; files come from the folder TEMPER_DATA, else are kept in .temper/downloads."""
    name, dataset = read(params)
    source = require_source(dataset.load(Path(os.environ.get("TEMPER_DATA") or DOWNLOADS)), name)
    write_source(RAW, name, source)
    sizes = {part: len(images) for part, images in source.parts.items()}
    shape = source.train.image_shape
    journal.note(f"{name}: {sizes} images of shape {shape}, {len(source.classes)} classes")
    journal.dataset(name, digest(source.parts), RAW, shape, source.classes, sizes)
    journal.produced({"raw": sha256(RAW)})


if __name__ == "__main__":
    run("fetch_data", main)
