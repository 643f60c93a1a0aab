"""Ends a stage whose `dvc repro` is gone, as a signal would: a kill of DVC alone does not reach what it has started.

A flow has a guard of its own (`pipelines/running/process.py`). A stage that a person starts may outlive the shell, as
anything under `nohup` does.
"""

import os
import signal
import threading
import time
from pathlib import Path

# DVC names the stage in the environment of its command.
UNDER_DVC = "DVC_STAGE"
POLL_SECONDS = 1.0
# A stage writes nothing that takes longer to leave whole.
GRACE_SECONDS = 30.0
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish")


def end_with_dvc() -> None:
    """From now on this process ends when the `dvc` that started it is gone. Does nothing where none did."""
    if UNDER_DVC in os.environ:
        threading.Thread(target=_watch, args=(_line_to_dvc(),), daemon=True).start()


def _line_to_dvc() -> list[tuple[int, int]]:
    """Pairs of a process and its parent: from this one, through the shell that DVC may have put between, to DVC."""
    line = [(os.getpid(), os.getppid())]
    while _name(line[-1][1]) in _SHELLS and (above := _parent(line[-1][1])) is not None:
        line.append((line[-1][1], above))
    return line


def _watch(line: list[tuple[int, int]]) -> None:
    # A process whose parent ends gets another one.
    while all(_parent(process) == parent for process, parent in line):
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    # Native code may wait for others for ever.
    time.sleep(GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _parent(process: int) -> int | None:
    """The parent of a process, None where it is gone or there is no /proc."""
    if process == os.getpid():
        return os.getppid()
    try:
        # The name, in brackets, may hold anything.
        return int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None
