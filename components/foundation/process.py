"""How a process of ours ends, and where it leaves what."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType

from components.foundation.errors import InputError
from components.foundation.lines import one_line, say
from components.foundation.memory import lack_of_memory

WORK = Path(".temper")
"""Resume state, journals and times: everything that is not an input or a declared output."""

RECIPE = "TEMPER_RECIPE"
"""The variable by which a run tells its stages the fingerprint of the parameters that it began with."""

# What becomes of a stage's records (`tracking.journal`).
SWITCH, ON, LATER, OFF = "TEMPER_TRACKING", "on", "later", "off"
USER_ERROR = 2
"""The exit status for a user's mistake. A retry cannot help."""
LONGEST_LINE = 1000
"""Characters of a mistake's line. Longer ones repeat what was typed."""


def new_pipeline_id(now: datetime) -> str:
    """A name for one pipeline run that sorts by time: `now` (in UTC), and its part of the second in four hex digits."""
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 16:04x}"


@contextmanager
def as_process(name: str = "") -> Generator[None]:
    """Inside the block SIGTERM and SIGINT end the process as exits, and a user's mistake with one line and status 2.

    The line begins with `name`, for logs in which several processes speak.
    """
    speaker = f"{name}: " if name else ""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _terminate)
    try:
        yield
    except Exception as error:
        if not is_users(error):
            raise
        say(f"{speaker}error: {in_one_line(error)}", to=sys.stderr)
        raise SystemExit(USER_ERROR) from None


def ask_temper(*arguments: str, root: Path | None = None) -> str:
    """What the command `temper` prints in a process of its own. Errors: the line that it ends with."""
    command = [sys.executable, "-m", "temper", *arguments]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if answer.returncode:
        said = answer.stderr.strip() or answer.stdout.strip() or f"ended with exit status {answer.returncode}"
        raise InputError(said.splitlines()[-1].removeprefix("error: "))
    return answer.stdout.strip()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def is_users(error: BaseException) -> bool:
    """Whether an error is the user's or the machine's to mend, so that one line says all there is to say."""
    return isinstance(error, InputError | OSError) or bool(lack_of_memory(error))


def in_one_line(error: BaseException) -> str:
    """What such an error says, in one line; of the operating system's errors the path and the reason."""
    if short := lack_of_memory(error):
        return f"{short}: free some, or take smaller images or batches"
    if isinstance(error, OSError):
        # Libraries raise some without a number, with all they have to say in their text.
        reason = error.strerror or one_line(error) or type(error).__name__
        names = " -> ".join(_path(name) for name in (error.filename, error.filename2) if name not in (None, ""))
        return _cut(one_line(f"{names or 'output'}: {reason}"))
    return _cut(one_line(error))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}…"


def _path(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)
