"""Runs flows for a terminal: Prefect's settings there, what a flow's end is as an exit status, and how signals end it.

Without PREFECT_API_URL Prefect starts a temporary server for the run.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from components.foundation.errors import InputError
from components.foundation.lines import say, shown
from components.foundation.process import USER_ERROR

INTERRUPTED, MORE_TO_DO = 130, 3
PORTS = {"http": 80, "https": 443}
# How long a server that is away at the start is waited for, and the variable that says otherwise.
PATIENCE, SERVER_SECONDS, MOST_SECONDS, CONNECT_SECONDS = "TEMPER_SERVER_SECONDS", 5, 86400, 2
SETTINGS = {
    # Lines of the flow and its stages, and warnings of everything else.
    "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LOGGERS_PREFECT_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s | %(task_run_name)s | %(message)s",
    # The temporary server: a busy machine needs longer than 20 s for the first one, which makes the database.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def configure() -> None:
    """Sets Prefect's settings where the user has not; before the first import of Prefect, which reads them then.

    Errors: those of `await_server`, before anything is changed.
    """
    await_server(os.environ)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def await_server(environment: Mapping[str, str]) -> None:
    """Waits for the server at PREFECT_API_URL, for TEMPER_SERVER_SECONDS at most, after one line that says so.

    Errors: no answer by then, or no address of a server. Without PREFECT_API_URL there is none to wait for.
    """
    address, patience = environment.get("PREFECT_API_URL", ""), _patience(environment)
    if not address:
        return
    place, deadline = _place(address), time.monotonic() + patience
    while problem := _problem(place):
        left = deadline - time.monotonic()
        if left <= 0:
            advice = "start it: prefect server start; or unset PREFECT_API_URL for a temporary one"
            said = f"no answer from {shown(address)} ({problem}) after {patience:g} s"
            raise InputError(f"PREFECT_API_URL: {said}; {advice}")
        if left + 1 > patience:
            say(f"waiting up to {patience:g} s for {shown(address)} ({problem})", to=sys.stderr)
        time.sleep(min(left, 1))


def _patience(environment: Mapping[str, str]) -> float:
    value = environment.get(PATIENCE, "") or str(SERVER_SECONDS)
    with suppress(ValueError):
        if 0 <= float(value) <= MOST_SECONDS:
            return float(value)
    raise InputError(f"{PATIENCE}: got {value!r}, want seconds from 0 to {MOST_SECONDS}")


def _place(address: str) -> tuple[str, int]:
    with suppress(ValueError):
        parts = urlsplit(address)
        if parts.hostname and parts.scheme in PORTS:
            return parts.hostname, parts.port or PORTS[parts.scheme]
    raise InputError(f"PREFECT_API_URL: got {shown(address)!r}, want an address such as http://127.0.0.1:4200/api")


def _problem(place: tuple[str, int]) -> str:
    """Why nobody answers there; nothing where somebody does."""
    try:
        socket.create_connection(place, CONNECT_SECONDS).close()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def status_of(flow: Callable[..., Any], **parameters: Any) -> int:
    """Runs a flow in this process: 0 when it completed, 2 for a mistake, 3 when it stopped and can go on, 1 otherwise.

    Says in one line why it did not complete.
    """
    from pipelines.running.tasks import MISTAKE, STOPPED

    state = flow(**parameters, return_state=True)
    if state.is_completed():
        return 0
    say(f"error: {state.message}", to=sys.stderr)
    return {MISTAKE: USER_ERROR, STOPPED: MORE_TO_DO}.get(state.name, 1)


def interruptible(work: Callable[[], int], stopped: str) -> int:
    """The exit status of some work, or 130 and the line `stopped` where SIGINT or SIGTERM ended it.

    Both raise KeyboardInterrupt: so the process ends by itself, and with it what it has started. Prefect's temporary
    server would go on after a process that a signal has ended.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work()
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return INTERRUPTED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
