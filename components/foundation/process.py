"""How a process of ours ends, and what it leaves where."""

import errno
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from components.foundation.errors import InputError

WORK = Path(".temper")
"""Resume state, journals and times: everything that is not an input or a declared output."""

USER_ERROR = 2
"""The exit status for a user's mistake, which no retry will mend."""


@contextmanager
def as_process(name: str) -> Generator[None]:
    """Ends the process as others expect it: SIGTERM and SIGINT as exits, a user's mistake in one line with status 2."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _terminate)
    try:
        yield
    except Exception as error:
        if not _is_users(error):
            raise
        print(f"{name}: error: {_one_line(error)}", file=sys.stderr, flush=True)
        raise SystemExit(USER_ERROR) from None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _is_users(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
    return isinstance(error, InputError) or _is_out_of_gpu_memory(error)


def _is_out_of_gpu_memory(error: BaseException) -> bool:
    # By name, since importing torch takes seconds: an error of torch's can only come from where torch is loaded.
    return "OutOfMemoryError" in {kind.__name__ for kind in type(error).__mro__}


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror}"
    if _is_out_of_gpu_memory(error):
        return f"out of GPU memory, lower batch_size ({str(error).splitlines()[0]})"
    return str(error)
