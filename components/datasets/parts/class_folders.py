"""Folders of image files, one per class: every entry is taken, or refused by name, or is none of the user's."""

import os
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from components.data.splits import require_counts
from components.foundation.errors import InputError, printable

SUFFIXES = (
    *(".apng", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
# Pictures too, which cannot be read.
FOREIGN = (".avif", ".dng", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".psd", ".svg")
# What a system leaves behind by itself, as it does with names that begin with a dot.
LEFT_BEHIND = ("desktop.ini", "ehthumbs.db", "thumbs.db")


def class_folders(folder: Path, minimum: int) -> dict[str, list[Path]]:
    """The image files of each class folder, both in order of their names.

    Errors: no such folder; those of `subfolders`; in a class anything but an image file, or fewer than `minimum`; a
    class name that is no text or looks like another.
    """
    if not folder.is_dir():
        raise InputError(f"{printable(folder)}: no such folder, want one folder per class in it")
    listing = {path.name: _image_files(path) for path in subfolders(folder)}
    _require_distinct(listing, folder)
    require_counts([len(files) for files in listing.values()], list(listing), minimum, printable(folder))
    return listing


def subfolders(folder: Path) -> list[Path]:
    """The folders in it, in order of their names. Errors: an image beside them, a link to nowhere, a pipe or device."""
    folders, files = _entries(folder)
    for path in files:
        if path.suffix.lower() in SUFFIXES + FOREIGN:
            raise InputError(f"{printable(path)}: an image that belongs to no class, want it in a class folder")
    return folders


def require_no_other_split(folder: Path, splits: Collection[str], classes: Iterable[str]) -> None:
    """Refuses a folder beside the splits that holds the same classes, and so would be a split that is left out."""
    for path in subfolders(folder):
        same = [name for name in classes if (path / name).is_dir()]
        if path.name not in splits and same:
            raise InputError(
                f"{printable(path)}: holds the class {same[0]!r} as the train folder does, but is no split (splits are "
                f"called {', '.join(splits)}; rename it or move it away)"
            )


def require_same_classes(train: Collection[str], held_out: Collection[str], split: str, folder: Path) -> None:
    """Refuses splits that differ in their classes, and shows two spellings of one name as they differ."""
    differing = sorted(set(train) ^ set(held_out))
    if differing:
        name, counts = differing[0], f"{len(train)} classes in train, {len(held_out)} in {split}"
        twin = next((other for other in differing[1:] if _looks(other) == _looks(name)), None)
        shown = repr(name) if twin is None else f"{name!a}, which looks the same as {twin!a},"
        where = "train" if name in train else split
        raise InputError(f"{printable(folder)}: {counts}, want the same; {shown} is only in {where}")


def _looks(name: str) -> str:
    """One of the ways in which Unicode spells what looks like this name."""
    return unicodedata.normalize("NFC", name)


def _image_files(folder: Path) -> list[Path]:
    folders, files = _entries(folder)
    for path in folders:
        raise InputError(f"{printable(path)}: a folder inside a class folder, want image files only")
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{printable(path)}: no known image type (allowed: {' '.join(SUFFIXES)})")
    return files


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and files of a folder, links followed, in order of their names, without what a system leaves behind."""
    folders, files, here = [], [], folder
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                here = folder / entry.name
                if entry.name.startswith(".") or entry.name.lower() in LEFT_BEHIND:
                    continue
                if not entry.is_dir() and not entry.is_file():
                    # Raises for a link to nowhere.
                    here.stat()
                    raise InputError(f"{printable(here)}: a pipe, socket or device, want an image file or a folder")
                (folders if entry.is_dir() else files).append(here)
    except OSError as error:
        target = f" (a link to {printable(os.readlink(here))})" if here.is_symlink() else ""
        raise InputError(f"{printable(here)}: {error.strerror or error}{target}") from None
    return sorted(folders), sorted(files)


def _require_distinct(classes: Iterable[str], folder: Path) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{printable(folder / name)}: a class name of bytes that are no UTF-8") from None
        twin = seen.setdefault(_looks(name), name)
        if twin != name:
            raise InputError(f"{printable(folder)}: the classes {twin!a} and {name!a} look the same, want one name")
