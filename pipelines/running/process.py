"""Runs one command as a process group of its own: live lines, a time limit, an end that leaves no child behind."""

import codecs
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import IO, Literal, NamedTuple

from components.foundation.lines import one_line
from components.foundation.process import USER_ERROR

# Seconds that the group gets after each signal. Their sum stays below the 30 s a Prefect worker waits before it kills.
STOP_SEQUENCE = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
POLL_SECONDS = 0.1
PROGRESS_SECONDS = 10.0
KEPT_LINES = 200
# Ends the group when the flow's process is gone without a word (kill -9): `read` returns when the pipe closes.
_GUARD = 'read -r _; kill -s INT -- "-$0"; sleep 10; kill -s KILL -- "-$0"'
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

EndedBy = Literal["itself", "time limit", "stop"]


@dataclass(frozen=True, kw_only=True)
class ProcessEnd:
    """How a command ended."""

    returncode: int
    lines: tuple[str, ...]
    """The last lines it printed, without progress."""
    ended_by: EndedBy


class Ended(NamedTuple):
    """What the end of a process means, with one line on why; `refused` is a user's mistake, which no retry helps."""

    status: Literal["ran", "kept", "refused", "failed", "timed out", "stopped", "skipped"]
    message: str

    @property
    def well(self) -> bool:
        return self.status in ("ran", "kept")


def meaning(end: ProcessEnd, time_limit: float) -> Ended:
    """What the end of a process of ours means, by its exit status and the last line it printed."""
    if end.ended_by == "stop":
        return Ended("stopped", "stopped")
    if end.ended_by == "time limit":
        return Ended("timed out", f"stopped after its time limit of {time_limit:g} s")
    if end.returncode == 0:
        return Ended("ran", "ran")
    if killed := _killed_by(end.returncode):
        return Ended("failed", killed)
    said = end.lines[-1] if end.lines else "no output"
    if end.returncode == USER_ERROR:
        return Ended("refused", said.split("error: ", 1)[-1])
    return Ended("failed", f"{said} (exit code {end.returncode})")


def _killed_by(returncode: int) -> str:
    """What the exit status of a process that a signal has ended means; nothing where none did."""
    # A shell between reports 128 and the signal.
    number = -returncode if returncode < 0 else returncode - 128
    if number == signal.SIGKILL:
        return f"killed (signal {number:d}; out of memory?)"
    if returncode in (130, 143) or number not in set(signal.Signals):
        return ""
    return f"ended by {signal.Signals(number).name} (signal {number})"


def run(
    command: Sequence[str],
    *,
    root: Path,
    environment: Mapping[str, str],
    log: Callable[[str], None],
    stop: threading.Event,
    time_limit: float,
) -> ProcessEnd:
    """The outcome of a command whose output went to `log`, line by line, while it ran.

    Args:
        command: program and arguments.
        root: working directory.
        environment: the whole environment of the process.
        log: takes one clean line: no control characters, no colours, no secrets of addresses.
        stop: when set, the group is stopped (SIGINT, then SIGTERM, then SIGKILL).
        time_limit: seconds after which the group is stopped.
    """
    process = Popen(
        command, cwd=root, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True
    )
    guard = Popen(["/bin/sh", "-c", _GUARD, str(process.pid)], stdin=PIPE, start_new_session=True)
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    reader = threading.Thread(target=_forward, args=(process.stdout, log, lines), daemon=True)
    reader.start()
    try:
        ended_by = _wait(process, stop, time.monotonic() + time_limit)
    finally:
        # Also on an exception in this thread, and after a normal end: a stage's own child may outlive it.
        _stop(process)
        os.killpg(guard.pid, signal.SIGKILL)
        guard.communicate()  # closes the pipe, too
        reader.join(timeout=5)
    return ProcessEnd(returncode=process.returncode, lines=tuple(lines), ended_by=ended_by)


def _wait(process: Popen[bytes], stop: threading.Event, deadline: float) -> EndedBy:
    while process.poll() is None:
        if time.monotonic() > deadline:
            return "time limit"
        if stop.wait(POLL_SECONDS):
            return "stop"
    return "itself"


def _stop(process: Popen[bytes]) -> None:
    # What is left when the leader has ended by itself has no work to save.
    steps = STOP_SEQUENCE if process.poll() is None else STOP_SEQUENCE[-1:]
    for number, grace in steps:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        _wait_for_group(process, time.monotonic() + grace)
    process.wait()


def _wait_for_group(process: Popen[bytes], deadline: float) -> None:
    while time.monotonic() < deadline:
        process.poll()  # reaps the leader, which would count as alive otherwise
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(POLL_SECONDS / 2)


def _forward(stream: IO[bytes], log: Callable[[str], None], kept: deque[str]) -> None:
    shown = time.monotonic()
    with stream:
        for line, final in _segments(stream):
            # DVC and others say addresses of remotes as they are. What stands in front indents the line.
            text = one_line(f"|{_ESCAPES.sub('', line.expandtabs())}")[1:]
            if not text:
                continue
            if final:
                kept.append(text)
            elif time.monotonic() - shown < PROGRESS_SECONDS:
                continue
            shown = time.monotonic()
            # A log that fails loses a line. If it ended this thread, the process would die of its next one.
            with suppress(Exception):
                log(text)


def _segments(stream: IO[bytes]) -> Iterator[tuple[str, bool]]:
    """Pieces of output with whether they stand (ended by a newline) or were overwritten (by a carriage return)."""
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    rest = ""
    while chunk := os.read(stream.fileno(), 65536):
        *pieces, rest = re.split(r"(?<=\n)|(?<=\r)(?=[^\n])", rest + decode(chunk).replace("\r\n", "\n"))
        for piece in pieces:
            yield piece.strip("\r\n"), piece.endswith("\n")
    yield rest, True
