"""Stage fetch_data: the raw images of one data set, verified, in data/raw.safetensors."""

import os
from pathlib import Path
from typing import Any

from components.data.splits import digest, require_source, write_source
from components.datasets import DATASETS
from components.datasets.parts.dataset import Dataset, OfFiles
from components.foundation.arguments import take_none
from components.foundation.errors import InputError
from components.foundation.params import Params, member, short, strict
from components.foundation.storage import sha256
from components.stages import run
from components.tracking.journal import Journal

RAW = Path("data/raw.safetensors")
DOWNLOADS = ".temper/downloads"


@strict
class FetchSection:
    """`dataset`: a name of the table, with that member's fields. `files` is for DVC, which reads it in dvc.yaml."""

    dataset: dict[str, Any]  # The dataset's name, with that member's fields.
    files: str | None = None  # What DVC watches besides code: of `image_folder` its folder. Without DVC not needed.


def read(params: Params) -> tuple[str, Dataset]:
    """The name of the data set and the member, checked."""
    section = params.typed(FetchSection, "fetch_data")
    # DVC takes the text as a path, after replacing keys in it.
    if section.files is not None and (not section.files.strip() or "${" in section.files):
        raise InputError(f"{params.path}: fetch_data.files: got {short(section.files)}, want a file or a folder")
    dataset = member(DATASETS, section.dataset, f"{params.path}: fetch_data.dataset")
    return section.dataset.get("name", ""), dataset


def warn_of_unwatched(dataset: Dataset, files: str | None, journal: Journal) -> None:
    """Says where DVC would not notice a changed file: dvc.yaml knows no key that only some data sets have."""
    folder = dataset.watched if isinstance(dataset, OfFiles) else None
    if folder is not None and files is not None and Path(files).resolve() != folder.resolve():
        journal.note(f"warning: DVC watches {files} and not {folder}: set fetch_data.files to that (params.yaml)")


def main(params: Params, journal: Journal) -> None:
    """Writes data/raw.safetensors; files come from the folder TEMPER_DATA, else are kept in .temper/downloads."""
    name, dataset = read(params)
    warn_of_unwatched(dataset, params.get("fetch_data").get("files"), journal)
    source = require_source(dataset.load(Path(os.environ.get("TEMPER_DATA") or DOWNLOADS)), name)
    name = source.title or name
    write_source(RAW, name, source)
    sizes = {part: len(images) for part, images in source.parts.items()}
    shape = source.train.image_shape
    journal.note(f"{name}: {sizes} images of shape {shape}, {len(source.classes)} classes")
    journal.dataset(name, digest(source.parts), RAW, shape, source.classes, sizes)
    journal.produced({"raw": sha256(RAW)})


if __name__ == "__main__":
    take_none("fetch_data", __doc__)
    run("fetch_data", main)
