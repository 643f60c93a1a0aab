"""Asks the components whether parameters are valid, before anything runs."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from components.foundation.errors import InputError

PARAMS = "params.yaml"


def check(root: Path, files: Iterable[Path] = (Path(PARAMS),)) -> None:
    """Returns if every parameter file is valid. Errors: the line that the components answer with."""
    command = [sys.executable, "-m", "components.commands.check_params", *map(str, files)]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if answer.returncode:
        lines = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
        raise InputError(
            lines[-1].removeprefix("error: ") if lines else f"{PARAMS}: the check ended with code {answer.returncode}"
        )
