"""What DVC watches follows the data set: where a change names the folder of images, `fetch_data.files` is that folder.

dvc.yaml can name a key of params.yaml as a dependency, but no key that only some data sets have.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.params import Params, is_mapping
from components.foundation.recipes import nested


def with_files(delta: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The delta, with `fetch_data.files` where it names the folder of images that are read at once, and no files."""
    tree = nested(delta, where)
    section = tree.get("fetch_data")
    dataset = section.get("dataset") if is_mapping(section) else None
    if not is_mapping(section) or not is_mapping(dataset) or "files" in section:
        return tree
    folder = dataset.get("folder")
    if not isinstance(folder, str) or dataset.get("streamed"):
        return tree
    return tree | {"fetch_data": {**section, "files": os.path.expanduser(folder)}}


def require_files(params: Params, root: Path) -> None:
    """Refuses files for DVC to watch that are not there; DVC says so after its retries, and not which key is wrong."""
    section = params.values.get("fetch_data")
    files = section.get("files") if is_mapping(section) else None
    if isinstance(files, str) and not (root / files).exists():
        raise InputError(f"{params.path}: fetch_data.files: {one_line(files)}: no such file or folder")
