"""Asks the components whether parameters are valid, before anything runs."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from components.foundation.process import ask_temper
from components.foundation.storage import sha256

PARAMS = "params.yaml"


def check(root: Path, files: Iterable[Path] = (Path(PARAMS),)) -> None:
    """Returns if every parameter file is valid. Errors: the first mistake in them."""
    _check(root, tuple((str(path), sha256(root / path)) for path in files))


# A terminal's mistakes show before its flow starts, and the flow, which a server may start as well, checks again.
@cache
def _check(root: Path, files: tuple[tuple[str, str], ...]) -> None:
    ask_temper("params", "check", *(path for path, _ in files), root=root)
