"""How a process of ours ends, and where it leaves what."""

import errno
import secrets
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType

from components.foundation.errors import InputError

WORK = Path(".temper")
"""Resume state, journals and times: everything that is not an input or a declared output."""

RECIPE = "TEMPER_RECIPE"
"""The variable by which a run tells its stages the fingerprint of the parameters that it began with."""

USER_ERROR = 2
"""The exit status for a user's mistake. A retry cannot help."""


def new_pipeline_id(now: datetime) -> str:
    """A name for one pipeline run that sorts by time: `now` (in UTC) and four random hex digits."""
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


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
        if not _is_users(error):
            raise
        print(f"{speaker}error: {_one_line(error)}", file=sys.stderr, flush=True)
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


def _is_users(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
    return isinstance(error, InputError) or _is_out_of_gpu_memory(error)


def _is_out_of_gpu_memory(error: BaseException) -> bool:
    # By name, since importing torch takes seconds, and such an error can only occur where torch is loaded already.
    return "OutOfMemoryError" in {kind.__name__ for kind in type(error).__mro__}


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror}"
    if _is_out_of_gpu_memory(error):
        return f"out of GPU memory, lower batch_size ({str(error).splitlines()[0]})"
    return str(error)
