"""Fetches the file of a model that MLflow keeps. Gets the download itself as a function, and so imports no MLflow."""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from components.tracking.registry import answered

READABLE = (".safetensors", ".pt2")
Download = Callable[[str, Path], Path]
"""A model's address and a folder -> where its files are then."""


def add_commands(commands: Any, place: str, connect: Callable[[str], Any], download: Download) -> None:
    """Adds `fetch-model URI FOLDER` to a command line; `run` is what it does, to an exit code."""
    parser = commands.add_parser("fetch-model", help="fetch the file of a model, safetensors or a torch.export program")
    parser.add_argument("uri", metavar="URI", help="models:/NAME/VERSION, models:/NAME@ALIAS or runs:/ID/PATH")
    parser.add_argument("folder", metavar="FOLDER", type=Path)

    def run(given: argparse.Namespace) -> int:
        print(answered(lambda client: fetch_model(given.uri, given.folder, download), place, connect))
        return 0

    parser.set_defaults(run=run)


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
