"""What a result came from: code, parameters, data and models by hash, and versions. Nothing here imports torch."""

import ast
import hashlib
import json
import platform
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from components.foundation.params import flat, is_mapping

PACKAGES = ("numpy", "safetensors", "torch", "torchvision")
PROJECT = Path(__file__).resolve().parents[2]
# Records of what happened, which change no number.
RECORDS_ONLY = "components/tracking/"

Inputs = dict[str, str]
"""All that numbers depend on, flat: name -> value or hash. Code under the file's path, parameters under their keys."""


def inputs_of(
    code: Iterable[str], told: Mapping[str, Any], root: Path = PROJECT, without: Collection[str] = ()
) -> Inputs:
    """What a piece of work depends on: the code that `code` executes, versions of packages, and whatever else is told.

    Args:
        code: files and folders, as for `code_of`.
        told: parameters, hashes of data and models; mappings are named by their keys, joined by dots.
        root: the folder that `code` is in.
        without: files of code that the work does not depend on, as for `code_of`.
    """
    numbered = {f"version of {name}": found for name, found in versions().items()}
    return (
        code_of(code, root, without)
        | numbered
        | {name: json.dumps(value, default=str) for name, value in flat(told).items()}
    )


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """A short hash of what `inputs` holds, whatever its order. What is unfinished or finished is kept under it."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The inputs that differ, one text each: `a file`, or `a key: old value -> new value`."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [
        name if name.endswith(".py") else f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in sorted(names, key=lambda name: (not name.endswith(".py"), name))
    ]


def code_of(names: Iterable[str], root: Path = PROJECT, without: Collection[str] = ()) -> dict[str, str]:
    """The files that `names` (files and folders below `root`) execute -> a hash of what is in each.

    A file executes what it imports of `components`, and so on; not the tables of families, which name members that may
    not be in use, and not the forwarding of records. The hash is of the syntax tree without docstrings, so a changed
    comment is no change. Files `without` which the work comes out the same are left out, with what they alone import.
    """
    open_files = [file for name in names for file in _files(root / name)]
    found: dict[str, str] = {}
    while open_files:
        file = open_files.pop()
        name = file.relative_to(root).as_posix()
        if name not in found and name not in without:
            found[name], modules = _read(file, file.stat().st_mtime_ns) if file.exists() else ("absent", ())
            candidates = (_file_of(module, root) for module in modules)
            open_files += [other for other in candidates if other is not None and not _is_left_out(other, root)]
    return dict(sorted(found.items()))


def members_of(value: Any) -> set[str]:
    """The files of the classes that settings are made of: of a dataclass, a tuple or a mapping, whatever is inside."""
    if is_mapping(value):
        return {file for inner in value.values() for file in members_of(inner)}
    if isinstance(value, (list, tuple)):
        return {file for inner in cast(Iterable[object], value) for file in members_of(inner)}
    module = type(value).__module__
    if not module.startswith("components."):
        return set()
    return {module.replace(".", "/") + ".py"} | members_of(getattr(value, "__dict__", {}))


def versions() -> dict[str, str]:
    """Python (without its patch level) and the packages that compute numbers, name to version."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def git_commit() -> str:
    """The commit of the working tree, with `-dirty` where tracked files differ; empty outside Git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


@cache
def _read(file: Path, _changed: int) -> tuple[str, tuple[str, ...]]:
    """The hash of a file's syntax tree, or of its bytes if it is no Python, and the modules of ours that it imports."""
    if file.suffix != ".py":
        return hashlib.sha256(file.read_bytes()).hexdigest(), ()
    tree = _Bare().visit(ast.parse(file.read_bytes()))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(_imported(tree))


class _Bare(ast.NodeTransformer):
    """Takes out texts that stand alone: docstrings, and descriptions below an attribute."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("components."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "components":
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file_of(module: str, root: Path) -> Path | None:
    file = root.joinpath(*module.split(".")).with_suffix(".py")
    return file if file.exists() else None


def _is_left_out(file: Path, root: Path) -> bool:
    return file.name == "__init__.py" or file.relative_to(root).as_posix().startswith(RECORDS_ONLY)
