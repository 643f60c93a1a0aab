"""Changes params.yaml: a whole preset, single keys, both checked before a stage starts."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.util import load_yaml_guess_indent

from components.foundation.errors import FROM_ROOT, InputError
from components.foundation.params import mapping_of, short
from components.foundation.process import WORK
from components.foundation.recipes import changed
from components.foundation.storage import read_text, write_text
from components.foundation.yaml_text import parse
from pipelines.parameters.check import PARAMS, check
from pipelines.parameters.in_place import WIDTH, in_place
from pipelines.parameters.presets import PRESETS, layers
from pipelines.parameters.watched import with_files
from pipelines.running.checkout import sole_run

KEPT = WORK / "params.before.yaml"
"""What a preset has replaced, changes by hand included."""
_HEAD = re.compile(r"(?:(?:#.*)?\n)*")


def change(root: Path, preset: str | None = None, assignments: Sequence[str] = ()) -> None:
    """Puts the preset in place of params.yaml, then sets single keys, then checks the result.

    A file that fails the check is taken back, so a mistake leaves params.yaml as it was. What a preset replaces is kept
    in .temper/params.before.yaml. Errors: also another run in this checkout, before anything is touched.

    Args:
        root: the project's root.
        preset: name of a file in presets/, without `.yaml`; None keeps the present file.
        assignments: `dotted.key=value` each, together a delta; values are read as YAML.
    """
    with sole_run(root):
        path = root / PARAMS
        before = _read(path)
        after = before if preset is None else preset_text(root, preset)
        if assignments:
            after = edited(after, delta_of(assignments), "--set")
        if after != before:
            write_text(path, after)
        try:
            check(root)
        except BaseException:
            if after != before:
                write_text(path, before)
            raise
        if preset is not None and after != before:
            write_text(root / KEPT, before)


def preset_text(root: Path, name: str) -> str:
    """The complete parameter file of a recipe: its own first comment over the keys and comments of the complete one."""
    whole, *deltas = layers(root, name)
    text = _read(whole.path)
    for path, _ in deltas:
        where, own = f"{PRESETS}/{path.name}", _read(path)
        delta = _load(own, where)[1]
        delta.pop("base", None)
        text = _head(own) + edited(text, delta, where)[len(_head(text)) :]
    return text


def edited(text: str, delta: Mapping[str, Any], where: str) -> str:
    """The YAML text with a delta applied: values in their places, else with comments and quotes kept."""
    delta, before = with_files(delta, where), mapping_of(text, PARAMS)
    if (same := in_place(text, delta, where, _yaml())) is not None:
        return same
    yaml, values = _load(text, PARAMS)
    result = changed(values, delta, where)
    _lay_out(result, 0)
    out = io.StringIO()
    yaml.dump(result, out)
    new = _spaced(out.getvalue(), text)
    if mapping_of(new, PARAMS) != changed(before, delta, where):
        raise InputError(f"{where}: {PARAMS} shares a block by an alias (*): write the block out, then change it")
    return new


def delta_of(assignments: Sequence[str]) -> dict[str, Any]:
    """The delta that `key=value` strings make together. Errors: one that is none, a value that is no YAML."""
    delta: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"--set {assignment}: want key=value, such as seed=1")
        try:
            # Refuses what no file of parameters may hold, such as a number of thousands of digits.
            parse(value, f"--set {short(assignment)}")
            loaded = _yaml().load(value)
        except YAMLError:
            raise InputError(f"--set {assignment}: the value is not readable as YAML") from None
        if key.strip() in delta:
            raise InputError(f"--set {assignment}: {key.strip()} is set twice")
        delta[key.strip()] = loaded
    return delta


def _load(text: str, name: str) -> tuple[YAML, Any]:
    try:
        _, indent, offset = load_yaml_guess_indent(text)
        yaml = _yaml()
        yaml.indent(mapping=2, sequence=indent or 2, offset=offset or 0)
        return yaml, yaml.load(text)
    except YAMLError as error:
        raise InputError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from None


class _ExplicitNull(RoundTripRepresenter):
    """Writes `null` where ruamel would write nothing."""


_ExplicitNull.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _ExplicitNull
    yaml.preserve_quotes = True
    yaml.width = 10**6  # a long line of the user's stays one line
    return yaml


def _head(text: str) -> str:
    """The comments and empty lines before the first key."""
    found = _HEAD.match(text)
    return found[0] if found else ""


def _lay_out(block: CommentedMap, indent: int) -> None:
    """Gives what is new in a document its style: on one line where it fits. The rest keeps the style that it has."""
    for key, value in block.items():
        if isinstance(value, CommentedMap):
            _lay_out(value, indent + 2)
        elif isinstance(value, dict) or (isinstance(value, list) and not isinstance(value, CommentedSeq)):
            block[key] = _styled(value, indent, key)


def _styled(value: Any, indent: int, key: str) -> Any:
    if isinstance(value, list):
        styled = CommentedSeq(_styled(inner, indent + 2, "") for inner in value)
    elif isinstance(value, dict):
        styled = CommentedMap((name, _styled(inner, indent + 2, name)) for name, inner in value.items())
    else:
        return value
    styled.fa.set_flow_style()
    line = io.StringIO()
    _yaml().dump(styled, line)
    if indent + len(f"{key}: {line.getvalue().rstrip()}") > WIDTH:
        styled.fa.set_block_style()
    return styled


def _spaced(text: str, before: str) -> str:
    """The text with the empty lines that were above its sections: with a block ruamel drops those that follow it."""
    for section in re.findall(r"(?<=\n\n)\w+:", before):
        text = re.sub(rf"(?<!\n)\n{section}", f"\n\n{section}", text)
    return text


def _read(path: Path) -> str:
    if not path.exists():
        raise InputError(f"{path.name}: no such file {FROM_ROOT}")
    return read_text(path)
