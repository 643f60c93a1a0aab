"""The recipes in presets/: `digits` is complete, every other one is a delta on its base.

`base: NAME` names another preset, and `digits` where it is absent. The rest of the file says what differs from it
(`components.foundation.recipes`). Needs no package that only DVC or Prefect bring.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from components.foundation.errors import FROM_ROOT, InputError, choose
from components.foundation.params import read_yaml
from components.foundation.recipes import changed

PRESETS = "presets"
COMPLETE = "digits"
# So many names stand in a message.
FEW = 8


class Layer(NamedTuple):
    """A preset's file, with what it changes; of the complete preset, with all parameters."""

    path: Path
    values: dict[str, Any]


def presets(root: Path) -> dict[str, Path]:
    """The files of the recipes by name, sorted."""
    return {path.stem: path for path in sorted((root / PRESETS).glob("*.yaml"))}


def require_presets(root: Path) -> dict[str, Path]:
    """The same. Error: there are none, as outside of the project."""
    if known := presets(root):
        return known
    raise InputError(f"{PRESETS}/{COMPLETE}.yaml: no such file {FROM_ROOT}")


def layers(root: Path, name: str) -> list[Layer]:
    """The files that make up a recipe: the complete one first, then each delta. Errors: unknown names, a circle."""
    known, found, where = require_presets(root), list[Layer](), "--preset"
    while True:
        path = _file(known, name, where)
        if path in [layer.path for layer in found]:
            raise InputError(f"{where}: {name!r} is a base of itself")
        where = f"{PRESETS}/{name}.yaml: base"
        values = read_yaml(path)
        base = values.pop("base", COMPLETE)
        found.insert(0, Layer(path, values))
        if name == COMPLETE:
            return found
        name = base


def _file(known: Mapping[str, Path], name: str, where: str) -> Path:
    """The file of a recipe. Error: no such name; of many names the message has those that are most like it."""
    if not isinstance(name, str) or len(known) <= FEW or name in known:
        return choose(known, name, where)
    like = ", ".join(get_close_matches(str(name), known, 3, 0.5))
    raise InputError(
        f"{where}: unknown {name!r}{f', perhaps {like}' if like else ''} (temper params presets lists all)"
    )


def preset_values(root: Path, name: str) -> dict[str, Any]:
    """All parameters of a recipe. Errors: an unknown name, a key that the base does not have."""
    whole, *deltas = layers(root, name)
    values = whole.values
    for path, delta in deltas:
        values = changed(values, delta, f"{PRESETS}/{path.name}")
    return values
