"""What DVC watches follows what a change names: a folder of images, and files of initial weights.

dvc.yaml can name a key of params.yaml as a dependency, but no key that only some recipes have. So `files` of a section
is the folder or the file that the change names beside it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.params import Params, is_mapping
from components.foundation.recipes import nested

TRAINING = ("train_clean_teacher", "train_robust_teacher", "distill_student")
# What stands for no initial weights, and for no images to watch.
NO_FILE = "components/models/parts/no_file.txt"
NO_FILES = "components/datasets/parts/no_files.txt"


def with_files(delta: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The delta, with `files` in each section where it names what is read and no files."""
    tree = nested(delta, where)
    for name, key, files_of in WATCHED:
        section = tree.get(name)
        if is_mapping(section) and key not in section and (files := files_of(section)) is not None:
            tree = tree | {name: {**section, key: os.path.expanduser(files)}}
    return tree


def _folder(section: Mapping[str, Any]) -> str | None:
    """The folder of images that are read at once."""
    dataset = section.get("dataset")
    folder = dataset.get("folder") if is_mapping(dataset) and not dataset.get("streamed") else None
    return folder if isinstance(folder, str) else None


def _weights(section: Mapping[str, Any]) -> str | None:
    """The file of initial weights; where a change takes them away, the one that stands for none."""
    if "initial" not in section:
        return None
    initial = section["initial"]
    file = initial.get("file") if is_mapping(initial) else None
    return file if isinstance(file, str) else NO_FILE if initial is None else None


def _extra(section: Mapping[str, Any]) -> str | None:
    """The second source of training images; where a change takes it away, the file that stands for none."""
    if "extra" not in section:
        return None
    extra = section["extra"]
    return extra if isinstance(extra, str) else NO_FILES if extra is None else None


# Of each section, the key that DVC reads, and what its value is to be.
WATCHED = (
    ("fetch_data", "files", _folder),
    ("fetch_data", "extra_files", _extra),
    *((name, "files", _weights) for name in TRAINING),
)


def require_files(params: Params, root: Path) -> None:
    """Refuses files for DVC to watch that are not there; DVC says so after its retries, and not which key is wrong."""
    for name, key, _ in WATCHED:
        section = params.values.get(name)
        files = section.get(key) if is_mapping(section) else None
        if not isinstance(files, str):
            continue
        if not (root / files).exists():
            raise InputError(f"{params.path}: {name}.{key}: {one_line(files)}: no such file or folder")
        if root.resolve().is_relative_to((root / files).resolve()):
            raise InputError(f"{params.path}: {name}.{key}: {one_line(files)}: the project itself is in it")
