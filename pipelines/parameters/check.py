"""Asks the components whether parameters are valid, before anything runs."""

import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from components.foundation.errors import InputError
from components.foundation.storage import sha256

PARAMS = "params.yaml"


def check(root: Path, files: Iterable[Path] = (Path(PARAMS),)) -> None:
    """Returns if every parameter file is valid. Errors: the line that the components answer with."""
    _check(root, tuple((str(path), sha256(root / path)) for path in files))


# A terminal's mistakes show before its flow starts, and the flow, which a server may start as well, checks again.
@cache
def _check(root: Path, files: tuple[tuple[str, str], ...]) -> None:
    command = [sys.executable, "-m", "temper", "params", "check", *(path for path, _ in files)]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if answer.returncode:
        lines = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
        raise InputError(
            lines[-1].removeprefix("error: ") if lines else f"{PARAMS}: the check ended with code {answer.returncode}"
        )
