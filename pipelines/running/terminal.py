"""Runs flows for a terminal: Prefect's settings there, what a flow's end is as an exit status, and how signals end it.

Without PREFECT_API_URL Prefect starts a temporary server for the run.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from components.foundation.process import USER_ERROR

INTERRUPTED, MORE_TO_DO = 130, 3
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
    """Sets Prefect's settings where the user has not; before the first import of Prefect, which reads them then."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def status_of(flow: Callable[..., Any], **parameters: Any) -> int:
    """Runs a flow in this process: 0 when it completed, 2 for a mistake, 3 when it stopped and can go on, 1 otherwise.

    Says in one line why it did not complete.
    """
    from pipelines.running.tasks import MISTAKE, STOPPED

    state = flow(**parameters, return_state=True)
    if state.is_completed():
        return 0
    print(f"error: {state.message}", file=sys.stderr)
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
