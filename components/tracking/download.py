"""Fetches the file of a model that MLflow keeps. Gets the download itself as a function, and so imports no MLflow."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from components.foundation.errors import InputError

READABLE = (".safetensors", ".pt2")
Download = Callable[[str, Path], Path]
"""A model's address and a folder -> where its files are then."""


def fetch_model(uri: str, folder: Path, download: Download) -> str:
    """Puts the one readable file of a model into the folder, and returns its name there.

    Errors: a model that is kept as a pickle, several files, of which any may be the model.
    """
    with tempfile.TemporaryDirectory() as fetched:
        place = download(uri, Path(fetched))
        files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        found = [path for path in files if path.suffix in READABLE]
        if len(found) != 1:
            raise InputError(f"{uri}: {_found_instead(found, files, place)}")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(found[0], folder / found[0].name)
        return found[0].name


def _found_instead(found: list[Path], files: list[Path], place: Path) -> str:
    names = ", ".join(str(path.relative_to(place)) for path in (found or files)[:5])
    if found:
        return f"several files that may be the model ({names}), say which one: runs:/ID/PATH"
    advice = "log it with mlflow.pytorch.log_model(…, serialization_format='pt2'), or its safetensors as an artifact"
    return f"neither safetensors nor a torch.export program in it ({names}); pickles are not read ({advice})"
