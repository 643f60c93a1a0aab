"""How a folder of images is laid out: class folders, or such folders for each split. Nothing here imports torch."""

from pathlib import Path

SPLITS = ("train", "test", "val")
SUFFIXES = (
    *(".apng", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
# What a system leaves behind by itself, as it does with names that begin with a dot.
LEFT_BEHIND = ("desktop.ini", "ehthumbs.db", "thumbs.db")


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders that hold the class folders, by split: `folder/train` and others, or for `train` the folder itself.

    A folder called `train`, `test` or `val` is a split if there is a folder in it; with files alone it is a class.
    Where there is another split, `train` is among them even if it does not exist.
    """
    found = {name: folder / name for name in SPLITS if _has_folders(folder / name)}
    return {"train": folder / "train"} | found if found else {"train": folder}


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
