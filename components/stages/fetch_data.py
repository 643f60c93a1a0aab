"""Stage fetch_data: the raw images of one data set, verified, in data/raw.safetensors."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from components.data.splits import Source, digest, require_source, write_source
from components.datasets import DATASETS
from components.datasets.parts.dataset import Dataset, OfFiles
from components.datasets.parts.extra import read_extra
from components.foundation.arguments import take_none
from components.foundation.errors import InputError
from components.foundation.params import Fractional, Params, Ratio, member, strict, typed
from components.foundation.recipes import require_path
from components.foundation.storage import sha256
from components.stages import run
from components.tracking.journal import Journal

RAW = Path("data/raw.safetensors")
DOWNLOADS = ".temper/downloads"
TRAINING = ("train_clean_teacher", "train_robust_teacher", "distill_student")
"""The sections whose recipes may take images of the second source."""


@strict
class FetchSection:
    """`dataset`: a name of the table, with that member's fields. `files` and `extra_files` are for DVC (dvc.yaml)."""

    dataset: dict[str, Any]  # The dataset's name, with that member's fields.
    extra: str | None = None  # A second source of training images: an .npz file, or folders of classes; null: none.
    extra_files: str | None = None  # What DVC watches of `extra`: the same path. Without DVC not needed.
    files: str | None = None  # What DVC watches besides code: of `image_folder` its folder. Without DVC not needed.


@strict
class ExtraShare:
    """The key of a recipe that says whether it takes images of the second source."""

    extra_share: Fractional = Ratio(0)


class FetchSettings(NamedTuple):
    """The data set by its name and as a member, and the rest of the section."""

    name: str
    dataset: Dataset
    section: FetchSection


def read(params: Params) -> FetchSettings:
    """The stage's settings, all checked."""
    section = params.typed(FetchSection, "fetch_data")
    for key in ("files", "extra", "extra_files"):
        require_path(getattr(section, key), f"{params.path}: fetch_data.{key}")
    dataset = member(DATASETS, section.dataset, f"{params.path}: fetch_data.dataset")
    if section.extra is not None and getattr(dataset, "streamed", None):
        raise InputError(f"{params.path}: fetch_data.extra: got {section.extra} beside streamed files, want null")
    return FetchSettings(section.dataset.get("name", ""), dataset, section)


def warnings_of_source(params: Params, settings: FetchSettings) -> list[str]:
    """A line for a second source that nothing trains on, and for each file of which DVC would not notice a change:
    dvc.yaml knows no key that only some data sets have."""
    lines: list[str] = []
    if settings.section.extra is not None and not any(_share(params, stage) for stage in TRAINING):
        lines.append("nothing trains on fetch_data.extra: recipe.extra_share is 0 in every section (params.yaml)")
    section, dataset = settings.section, settings.dataset
    folder = dataset.watched if isinstance(dataset, OfFiles) else None
    extra = None if section.extra is None else Path(section.extra).expanduser()
    for key, wanted in (("files", folder), ("extra_files", extra)):
        watched = getattr(section, key)
        if wanted is not None and watched is not None and Path(watched).resolve() != wanted.resolve():
            lines.append(f"DVC watches {watched} and not {wanted}: set fetch_data.{key} to that (params.yaml)")
    return lines


def _share(params: Params, stage: str) -> Ratio:
    recipe = params.get(stage, "recipe")
    share = {key: value for key, value in recipe.items() if key == "extra_share"}
    return typed(ExtraShare, share, f"{params.path}: {stage}.recipe").extra_share


def load(settings: FetchSettings) -> Source:
    """The images, checked; files come from the folder TEMPER_DATA, else are kept in .temper/downloads."""
    root = Path(os.environ.get("TEMPER_DATA") or DOWNLOADS)
    source = require_source(settings.dataset.load(root), settings.name)
    if (path := settings.section.extra) is None:
        return source
    try:
        return replace(source, extra=read_extra(Path(path).expanduser(), source.classes, source.train.image_shape))
    except InputError as error:
        raise InputError(f"fetch_data.extra: {error}") from None


def main(params: Params, journal: Journal) -> None:
    """Writes data/raw.safetensors."""
    settings = read(params)
    source = load(settings)
    # Only now: a file that is missing is one line.
    for line in warnings_of_source(params, settings):
        journal.note(f"warning: {line}")
    name = source.title or settings.name
    write_source(RAW, name, source)
    sizes = {part: len(images) for part, images in source.parts.items()}
    shape = source.train.image_shape
    journal.note(f"{name}: {sizes} images of shape {shape}, {len(source.classes)} classes")
    journal.dataset(name, digest(source.parts), RAW, shape, source.classes, sizes)
    journal.produced({"raw": sha256(RAW)})


if __name__ == "__main__":
    take_none("fetch_data", __doc__)
    run("fetch_data", main)
