"""A training stage as several processes: this one starts and watches them, or it is one that torchrun has started.

The first process (rank 0) is the stage: it keeps the journal, writes the files and prints. The others ("followers")
compute along and leave no trace; they go when the first one goes.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn, cast

import torch

from components.foundation.child import finish_requested
from components.foundation.errors import InputError
from components.foundation.params import Params
from components.foundation.process import USER_ERROR, as_process
from components.foundation.starter import end_with_dvc
from components.numerics import parallel
from components.numerics.compute import Compute
from components.numerics.threads import settled
from components.stages import kept_threads, run, with_threads
from components.tracking.journal import Journal

# Seconds a process gets to end by itself, below the ten that pipelines wait after their first signal.
GRACE = 8
# What ends one process soon ends all. A follower waits this long before it tells an error: by then it is gone, unless
# the error is its own. A mistake of the user is hardly ever its own, and on a busy machine the first process, which
# tells it, may be far behind.
HUSH, HUSH_MISTAKE = 3, 20
# In the environment of processes that this module started: their standard input ends when the starter does.
WATCHED = "TEMPER_WATCHED"

# Processes of a stage for each core of the machine.
MOST_PER_CORE = 4

Main = Callable[[Params, Journal], None]


def run_together(stage: str, main: Main) -> None:
    """Runs a training stage as a process, like `run`, or as `parallel.processes` of them, or as one of torchrun's."""
    if "RANK" in os.environ:
        _run_one(stage, main)
        return
    with as_process(stage):
        end_with_dvc()
        # Chosen before there are several processes, which would disturb the measurement.
        params = with_threads(Params.read(), stage)
        processes = params.typed(parallel.Parallel, "parallel").processes
        if processes > 1:
            _require_possible(processes, params.typed(Compute, "compute").device)
            raise SystemExit(_start(stage, processes))
    run(stage, main)


def _require_possible(processes: int, device: str) -> None:
    """Refuses far more processes than cores: each holds torch and the data. More than GPUs are refused later."""
    most = MOST_PER_CORE * len(os.sched_getaffinity(0))
    if processes > most and (device == "cpu" or not torch.cuda.is_available()):
        raise InputError(f"params.yaml: parallel.processes: got {processes}, want at most {most} on these cores")


def _run_one(stage: str, main: Main) -> None:
    if WATCHED in os.environ:
        # Not even a process that waits for others in native code outlives its starter.
        finish_requested()
    try:
        if os.environ["RANK"] == "0":
            run(stage, main)
        else:
            _follow(stage, main)
    except SystemExit as end:
        _leave_at_once(end)
    parallel.leave()


def _leave_at_once(end: SystemExit) -> NoReturn:
    """Ends this process without destructors: those of a group whose members still compute can abort it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def _follow(stage: str, main: Main) -> None:
    with as_process(f"{stage}, process {os.environ['RANK']}"):
        # A signal is the first process's to act on: it must not wait for followers that are gone already.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        try:
            main(settled(Params.read(), kept_threads(stage)), cast(Journal, Silence()))
        except BaseException as error:
            time.sleep(HUSH_MISTAKE if isinstance(error, InputError) else HUSH)
            raise


class Silence:
    """The journal of a follower: whatever is recorded, nothing is."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _start(stage: str, processes: int) -> int:
    """Runs the stage as so many processes; the exit status is that of the first failure, or 0."""
    # Keeps the address book in this process, as torchrun does: no port is guessed.
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    group = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        WATCHED: "1",
    }
    command, started = [sys.executable, "-m", f"components.stages.{stage}"], []
    try:
        for rank in range(processes):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(subprocess.Popen(command, env={**os.environ, **group, **place}, stdin=subprocess.PIPE))
        return _first_end(started)
    finally:
        _end(started)


def _first_end(started: list[subprocess.Popen[bytes]]) -> int:
    """Waits until the first process has ended or another one has failed; that exit status, 128 + n after a signal."""
    while True:
        codes = [code for process in started if (code := process.poll()) is not None]
        failed = sorted((code for code in codes if code), key=lambda code: code != USER_ERROR)
        if failed or started[0].poll() is not None:
            code = failed[0] if failed else 0
            return code if code >= 0 else 128 - code
        time.sleep(0.05)


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    """Ends the first process as a signal would, and then the followers, which have nothing to lose."""
    deadline = time.monotonic() + GRACE
    for place, process in enumerate(started):
        if place == 0 and process.poll() is None:
            process.terminate()
        try:
            process.wait(max(0.0, deadline - time.monotonic()) if place == 0 else 0.2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
