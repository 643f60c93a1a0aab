"""Who is at work in a checkout: the file that says so. `pipelines/running/checkout.py` takes it for a run.

The lock is the operating system's on a file, so a killed process holds nothing. The file only says who has it.
"""

from pathlib import Path
from typing import TextIO

from components.foundation.errors import FROM_ROOT, InputError
from components.foundation.process import WORK
from components.foundation.storage import locked, require_bytes

PARAMS = "params.yaml"
LOCK = WORK / "run.lock"


def require_project(root: Path, missing: str = PARAMS) -> None:
    """Error: `root` is no project's root, so what is `missing` there is so because the command runs elsewhere."""
    if not (root / PARAMS).exists():
        raise InputError(f"{missing}: no such file {FROM_ROOT}")


def require_free(root: Path) -> None:
    """Error: a run is at work in the checkout `root`."""
    try:
        require_bytes(root / LOCK)
        with (root / LOCK).open(encoding="utf-8") as file:
            take(file)
    except FileNotFoundError:
        return


def take(file: TextIO) -> None:
    """Takes the lock on the open file, until it is closed. Error: another process has it."""
    if not locked(file.fileno()):
        file.seek(0)
        holder = file.read().strip() or "another run"
        raise InputError(f"{holder} is at work in this checkout; wait for its end, or stop it")
