"""The boxes of dvc.yaml, one file each: read parameters, call the core, write files. Here: what all boxes do alike."""

import errno
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from components.errors import InputError
from components.journal import Journal
from components.params import Params
from components.provenance import fingerprint, git_commit, versions
from components.storage import write_json

STAGES = (
    "fetch_data",
    "normalize_data",
    "train_clean_teacher",
    "train_robust_teacher",
    "distill_student",
    "evaluate_attacks",
    "report",
)
SHARED = ("seed", "compute", "parallel", "threat", "ntk")
WORK = Path(".temper")
"""Resume state, journals and times: everything that is not an input or a declared output."""

USER_ERROR = 2
"""The exit status for a user's mistake, which no retry will mend."""


def run(stage: str, main: Callable[[Params, Journal], None]) -> None:
    """Runs a stage as a process: a user's mistake becomes one line and exit status 2, a kill is recorded as one."""
    began = time.monotonic()
    with as_process(stage):
        params = Params.read()
        params.require_known({*STAGES, *SHARED})
        told = {key: params.values.get(key) for key in (*SHARED, stage)}
        with Journal.open(stage, inputs=fingerprint(**told)) as journal:
            journal.params(told)
            journal.tags({"git.commit": git_commit(), **{f"version.{k}": v for k, v in versions().items()}})
            main(params, journal)
            cost = _cost(time.monotonic() - began)
            write_json(WORK / "costs" / f"{stage}.json", cost)
            journal.metrics({f"cost_{name}": value for name, value in cost.items()}, step=None)


@contextmanager
def as_process(name: str) -> Iterator[None]:
    """Ends the process as others expect it: SIGTERM and SIGINT as exits, a user's mistake in one line with status 2."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _terminate)
    try:
        yield
    except (InputError, OSError, torch.OutOfMemoryError) as error:
        if not _is_users(error):
            raise
        print(f"{name}: error: {_one_line(error)}", file=sys.stderr, flush=True)
        raise SystemExit(USER_ERROR) from None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _is_users(error: BaseException) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
    return not isinstance(error, OSError) or error.errno in full


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror}"
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of GPU memory, lower batch_size ({str(error).splitlines()[0]})"
    return str(error)


def _cost(seconds: float) -> dict[str, float]:
    """Wall seconds and peak memory of this process; on a GPU also its peak there."""
    cost = {"seconds": round(seconds, 3), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        cost["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return cost
