"""What a result came from: code, parameters, data and models by hash, and versions."""

import hashlib
import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "safetensors", "torch", "torchvision")


def code_hash() -> str:
    """SHA-256 over the source of every module of this package that is loaded, so over what this process executes."""
    # The module that `python -m` runs is called __main__; its own name is in its spec.
    names = {name: getattr(getattr(module, "__spec__", None), "name", name) for name, module in sys.modules.items()}
    own = {names[name]: module for name, module in sys.modules.items() if names[name].split(".")[0] == "components"}
    files = {name: getattr(module, "__file__", None) for name, module in own.items()}
    whole = hashlib.sha256()
    for name, file in sorted(files.items()):
        if file:
            whole.update(name.encode() + b"\0" + Path(file).read_bytes() + b"\0")
    return whole.hexdigest()


def fingerprint(**inputs: Any) -> str:
    """A short hash of everything a run depends on: the inputs given, and the code. Resume state is kept under it."""
    text = json.dumps(inputs | {"code": code_hash(), "versions": versions()}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="], capture_output=True, text=True
        )
    except OSError:
        return ""
    return done.stdout.strip()
