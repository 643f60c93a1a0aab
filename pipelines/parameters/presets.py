"""The recipes in presets/: complete parameter files, and small ones that replace some sections of another.

A small one starts with `base: NAME`; each of its other top-level keys replaces that section of the base. Works on text,
so that comments stay, and imports nothing, so that it works where neither DVC nor Prefect is installed.
"""

import re
from pathlib import Path

from components.foundation.errors import InputError

PRESETS = "presets"
_BASE = re.compile(r"^base:\s*(\S+)\s*(#.*)?$")


def presets(root: Path) -> dict[str, Path]:
    """The recipes by name, sorted."""
    return {path.stem: path for path in sorted((root / PRESETS).glob("*.yaml"))}


def preset_text(root: Path, name: str) -> str:
    """The complete parameter file of a recipe. Errors: an unknown name, a section that its base does not have."""
    valid = presets(root)
    if name not in valid:
        raise InputError(f"--preset: unknown {name!r} (allowed: {', '.join(valid) or f'none, {PRESETS}/ is empty'})")
    head, sections = _sections(_read(valid[name]))
    if "base" not in sections:
        return head + "".join(sections.values())
    found = _BASE.match(sections.pop("base").splitlines()[0])
    if found is None or found[1] == name:
        raise InputError(f"{PRESETS}/{name}.yaml: base: want the name of another preset")
    _, whole = _sections(preset_text(root, found[1]))
    unknown = sorted(set(sections) - set(whole))
    if unknown:
        raise InputError(
            f"{PRESETS}/{name}.yaml: {found[1]} has no section {unknown[0]!r} (allowed: {', '.join(whole)})"
        )
    return head + "".join((whole | sections).values())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None


def _sections(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the first top-level key, and the text of each section up to the next, blank line included."""
    starts = [found.start() for found in re.finditer(r"(?m)^[A-Za-z_]", text)]
    parts = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    sections = {
        part.split(":", 1)[0]: part.rstrip("\n") + "\n" + ("\n" if part.endswith("\n\n") else "") for part in parts
    }
    return text[: starts[0]] if starts else text, sections
