"""One run at a time in a checkout: another one is told so before it touches params.yaml."""

import json
import os
import shlex
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from components.foundation.checkout import LOCK, require_project, take
from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.storage import locked, require_bytes

DVC_LOCK, DVC_RUNNING = Path(".dvc/tmp/lock"), Path(".dvc/tmp/rwlock")
# DVC's short commands, such as `dvc status`, hold its lock for a moment, and so does a stage that asks for ours.
PATIENCE_SECONDS, POLL_SECONDS = 5.0, 0.1
_held: set[Path] = set()


@contextmanager
def sole_run(root: Path) -> Generator[None]:
    """Inside the block no other run of ours begins in the checkout `root`, and none changes its params.yaml.

    A block inside the block of the same process is part of it. Errors: another run or DVC is at work
    there, and no project is there.
    """
    require_project(root)
    path = (root / LOCK).resolve()
    if path in _held:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        require_bytes(path)
    with path.open("a+", encoding="utf-8") as file, ExitStack() as after:
        _take(file)
        _require_no_dvc(root)
        file.truncate(0)
        file.write(f"PID {os.getpid()} ({_command()})\n")
        file.flush()
        _held.add(path)
        after.callback(_held.discard, path)
        after.callback(file.truncate, 0)
        yield


def _take(file: TextIO) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return take(file)
        except InputError:
            # Only a run writes its name.
            file.seek(0)
            if file.read().strip() or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def _command() -> str:
    """What a person typed for this process, on one line and not all of what is long."""
    name, *rest = sys.argv
    return one_line(" ".join(shlex.join([Path(name).name, *rest]).split()))[:120]


def _require_no_dvc(root: Path) -> None:
    """Refuses a checkout in which `dvc repro` or another command of DVC is at work; short ones are waited for."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        if running := next(_dvc_stages(root), None):
            raise InputError(f"{running} is at work in this checkout; wait for its end, or stop it")
        if not _dvc_is_busy(root):
            return
        if time.monotonic() > deadline:
            raise InputError(f"a command of DVC is at work in this checkout ({DVC_LOCK}); wait for its end, or stop it")
        time.sleep(POLL_SECONDS)


def _dvc_is_busy(root: Path) -> bool:
    try:
        require_bytes(root / DVC_LOCK)
        with (root / DVC_LOCK).open("rb") as file:
            return not locked(file.fileno())
    except OSError:
        return False
    except InputError:
        # Whatever is there, DVC's lock it is not.
        return False


def _dvc_stages(root: Path) -> Iterator[str]:
    """The live processes that DVC notes as reading or writing files of the checkout, each with its command."""
    try:
        noted: Any = json.loads((root / DVC_RUNNING).read_text(encoding="utf-8") or "{}")
    except (OSError, ValueError):
        return
    stack: list[object] = [noted]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            values = cast(dict[str, object], part)
            pid, command = values.get("pid"), values.get("cmd")
            if isinstance(pid, int) and _lives(pid):
                yield f"PID {pid} ({' '.join(str(command).split())[:120]})"
            stack += values.values()
        elif isinstance(part, list):
            stack += cast(list[object], part)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
