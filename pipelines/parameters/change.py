"""Changes params.yaml: a whole preset, single keys, both checked before a stage starts."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.util import load_yaml_guess_indent

from components.foundation.errors import InputError
from pipelines.parameters.presets import preset_text

PARAMS = "params.yaml"


def change(root: Path, preset: str | None = None, assignments: Sequence[str] = ()) -> None:
    """Puts the preset in place of params.yaml, then sets single keys, then checks the result.

    A file that fails the check is taken back, so a mistake leaves params.yaml as it was.

    Args:
        root: the project's root.
        preset: name of a file in presets/, without `.yaml`; None keeps the present file.
        assignments: `dotted.key=value` each; the value is read as YAML, the key must exist.
    """
    path = root / PARAMS
    before = _read(path)
    after = preset_text(root, preset) if preset else before
    if assignments:
        after = edited(after, assignments)
    if after != before:
        replace_text(path, after)
    try:
        check(root)
    except BaseException:
        if after != before:
            replace_text(path, before)
        raise


def check(root: Path) -> None:
    """Asks the components whether params.yaml is valid. Errors: the line they answer with."""
    command = [sys.executable, "-m", "components.commands.check_params"]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if answer.returncode:
        lines = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
        raise InputError(
            lines[-1].removeprefix("error: ") if lines else f"{PARAMS}: the check ended with code {answer.returncode}"
        )


def edited(text: str, assignments: Sequence[str]) -> str:
    """The YAML text with the keys set; comments, order and quotes are kept."""
    yaml, values = _load(text)
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"--set {assignment}: want key=value, such as seed=1")
        _assign(values, key.strip().split("."), _parse(assignment, value))
    out = io.StringIO()
    yaml.dump(values, out)
    return out.getvalue()


def value_of(root: Path, key: str, default: Any = None) -> Any:
    """The value under a top-level key of params.yaml, or the default where the file or the key is absent."""
    path = root / PARAMS
    values = _load(_read(path))[1] if path.exists() else None
    return values.get(key, default) if isinstance(values, dict) else default


def _load(text: str) -> tuple[YAML, Any]:
    try:
        _, indent, offset = load_yaml_guess_indent(text)
        yaml = _yaml()
        yaml.indent(mapping=2, sequence=indent or 2, offset=offset or 0)
        return yaml, yaml.load(text)
    except YAMLError as error:
        raise InputError(f"{PARAMS}: not readable as YAML: {' '.join(str(error).split())}") from None


class _ExplicitNull(RoundTripRepresenter):
    """Writes `null` where ruamel would write nothing."""


_ExplicitNull.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _ExplicitNull
    yaml.preserve_quotes = True
    yaml.width = 10**6  # a long line of the user's stays one line
    return yaml


def _parse(assignment: str, value: str) -> Any:
    try:
        return _yaml().load(value)
    except YAMLError:
        raise InputError(f"--set {assignment}: the value is not readable as YAML") from None


def _assign(values: Any, parts: list[str], value: Any) -> None:
    for depth, part in enumerate(parts):
        keys = _keys(values)
        if part not in keys:
            where = ".".join(parts[:depth]) or "the top level"
            allowed = ", ".join(keys) or "none, it is a single value"
            raise InputError(f"--set {'.'.join(parts)}: no key {part!r} in {where} (allowed: {allowed})")
        if depth < len(parts) - 1:
            values = values[keys[part]]
        else:
            values[keys[part]] = value


def _keys(values: Any) -> dict[str, Any]:
    """What may be written at this level, as text: the keys of a mapping, the positions of a list."""
    if isinstance(values, dict):
        return {str(key): key for key in values}
    return {str(index): index for index in range(len(values))} if isinstance(values, list) else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path.name}: no such file (run from the project's root)") from None
    except UnicodeDecodeError:
        raise InputError(f"{path.name}: not UTF-8 text") from None


def replace_text(path: Path, text: str) -> None:
    """Writes a text file that exists already: whole or not at all, with its permissions."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        shutil.copymode(path, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
