"""Runs flows for a terminal: Prefect's settings there, what a flow's end is as an exit status, and how signals end it.

Without PREFECT_API_URL Prefect starts a temporary server for the run.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPException
from types import FrameType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

from components.foundation.errors import InputError
from components.foundation.lines import one_line, say, shown
from components.foundation.process import USER_ERROR

INTERRUPTED, MORE_TO_DO = 130, 3
STAGES_GO_ON = "stopped; the stages go on from their checkpoints next time"
SCHEMES = ("http", "https")
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
    health, deadline = _health(address), time.monotonic() + patience
    while problem := _problem(health):
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


def _health(address: str) -> str:
    """Where a server of Prefect says that it is well. It asks nobody who they are."""
    with suppress(ValueError):
        parts = urlsplit(address)
        # Asked for its port, an address that has a wrong one raises.
        if parts.hostname and parts.scheme in SCHEMES and parts.port != 0:
            place = parts.netloc.rpartition("@")[2]
            return urlunsplit((parts.scheme, place, f"{parts.path.rstrip('/')}/health", "", ""))
    raise InputError(f"PREFECT_API_URL: got {shown(address)!r}, want an address such as http://127.0.0.1:4200/api")


def _problem(health: str) -> str:
    """Why no server of Prefect answers there; nothing where one does."""
    try:
        with urlopen(health, timeout=CONNECT_SECONDS) as answer:
            return "" if answer.read(10).strip() == b"true" else "something else answers there, no API of Prefect"
    except HTTPError as error:
        return f"status {error.code} there, no API of Prefect; its address ends in /api"
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        return (getattr(reason, "strerror", None) or str(reason) or type(reason).__name__).lower()


def status_of(flow: Callable[..., Any], **parameters: Any) -> int:
    """Runs a flow in this process: 0 when it completed, 2 for a mistake, 3 when it stopped and can go on, 1 otherwise.

    Says in one line why it did not complete, also where the server went away and cannot be told how the run ended.
    """
    import httpx

    from pipelines.running.tasks import MISTAKE, STOPPED

    try:
        state = flow(**parameters, return_state=True)
    except httpx.HTTPError as error:
        what = one_line(error) or type(error).__name__
        say(f"error: Prefect's server does not hear how the run ended ({what}); finished work is kept", to=sys.stderr)
        return 1
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
