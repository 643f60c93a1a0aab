"""Runs a script of an official repository as it stands, apart from its data, its networks and its length."""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.official.tape import Tape, drawing, recording

Batches = list[list[tuple[Tensor, ...]]]
"""Epochs of batches of images and labels."""


class Feed:
    """Stands in for a data loader: one epoch after the other; at the beginning of one of them the tape begins."""

    def __init__(self, epochs: Batches, tape: Tape, begins: int = 0) -> None:
        self.epochs, self.tape, self.begins, self.passes = epochs, tape, begins, 0

    def __len__(self) -> int:
        return len(self.epochs[0])

    @property
    def dataset(self) -> list[tuple[Tensor, ...]]:
        """The batches of the first epoch: the scripts print how many there are."""
        return self.epochs[0]

    def __iter__(self) -> Any:
        if self.passes == self.begins:
            self.tape.begin()
        batches = self.epochs[max(0, self.passes - self.begins)]
        self.passes += 1
        return iter([tuple(part.clone() for part in batch) for batch in batches])


def stand_in(name: str, **members: Any) -> ModuleType:
    """A module of that name with these members."""
    module = ModuleType(name)
    module.__dict__.update(members)
    return module


def apex() -> dict[str, ModuleType]:
    """NVIDIA's package for half precision, which does nothing here."""
    amp = stand_in(
        "apex.amp",
        initialize=lambda model, optimizer, **_: (model, optimizer),
        scale_loss=lambda loss, _: nullcontext(loss),
    )
    return {"apex": stand_in("apex", amp=amp), "apex.amp": amp}


def run(
    path: Path,
    tape: Tape,
    argv: Mapping[str, Any] | None = None,
    edits: Mapping[str, str] | None = None,
    modules: Mapping[str, ModuleType] | None = None,
    patches: Sequence[Any] = (),
    prepare: Callable[[dict[str, Any]], None] = lambda _: None,
    noted: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda _: {},
) -> dict[str, Any]:
    """Executes the file, and its `main` if it has one; returns what it defines.

    Args:
        argv: command-line options by name; True for one without a value.
        edits: texts of the file, each of which occurs in it, and what they become.
        modules: what its imports find first.
        patches: more of what it is to find.
        prepare: given what the file defines, before its `main`.
        noted: given what the file defines, what goes onto the tape with each step.
    """
    options = [path.name]
    for name, value in (argv or {}).items():
        options += [name] if value is True else [name, str(value)]
    namespace: dict[str, Any] = {"__name__": "official", "__file__": str(path)}
    tape.noted = lambda: noted(namespace)
    every = [*drawing(tape), patch.object(torch, "save", lambda *_, **__: None), *patches]
    with ExitStack() as stack:
        stack.enter_context(recording(tape, lambda: tape.networks[0], every))
        stack.enter_context(_imports(path.parent, modules or {}))
        stack.enter_context(_elsewhere())
        stack.enter_context(patch.object(sys, "argv", options))
        exec(compiled(path, edits or {}), namespace)
        prepare(namespace)
        if "main" in namespace:
            namespace["main"]()
    return namespace


def compiled(path: Path, edits: Mapping[str, str]) -> CodeType:
    """The file with these of its texts, each of which occurs in it, replaced."""
    text = path.read_text(encoding="utf-8")
    for old, new in edits.items():
        assert old in text, f"{path}: no {old!r}"
        text = text.replace(old, new)
    return compile(text, str(path), "exec")


def edited(path: Path, edits: Mapping[str, str]) -> ModuleType:
    """That file as a module, with its texts replaced."""
    module = stand_in(path.stem)
    exec(compiled(path, edits), module.__dict__)
    return module


def defaults(namespace: Mapping[str, Any]) -> Any:
    """What the script's command line is without any option."""
    with patch.object(sys, "argv", ["script"]):
        return namespace["get_args"]()


@contextmanager
def _imports(folder: Path, modules: Mapping[str, ModuleType]) -> Any:
    """The folder's own modules are found first, and forgotten afterwards: many are called `utils`."""
    before = dict(sys.modules)
    sys.modules.update(modules)
    try:
        with patch.object(sys, "path", [str(folder), *sys.path]):
            yield
    finally:
        for name, module in list(sys.modules.items()):
            spec = getattr(module, "__spec__", None)
            files = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
            if name in modules or any(file and Path(file).is_relative_to(folder) for file in files):
                del sys.modules[name]
                if name in before:
                    sys.modules[name] = before[name]


@contextmanager
def _elsewhere() -> Any:
    """The scripts write logs, print every step, choose a GPU, and use what torch calls deprecated."""
    handlers = logging.getLogger().handlers[:]
    with ExitStack() as stack:
        stack.enter_context(chdir(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.enter_context(patch.dict(os.environ))
        stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield
    logging.getLogger().handlers[:] = handlers


def no_evaluation(*names: str) -> dict[str, Any]:
    """Evaluations of the scripts, which are none of our concern: (loss, accuracy) of nothing."""
    return dict.fromkeys(names, lambda *_, **__: (0.0, 0.0))
