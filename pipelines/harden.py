"""Runs the flow `harden` for a terminal: what is stale in dvc.yaml, then the result table.

Without PREFECT_API_URL Prefect starts a temporary server for the run.
"""

import os
import sys
from pathlib import Path
from typing import Any

from components.foundation.process import USER_ERROR
from pipelines.running.process import MISTAKE

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


def run(**parameters: Any) -> int:
    """Runs the flow `harden` with its parameters, in this process, and prints the table.

    0 when every stage completed, 1 when one failed, 2 for a user's mistake, 130 when interrupted.
    """
    configure()
    from pipelines.flows.harden import harden, results

    try:
        state = harden(**parameters, return_state=True)  # pyright: ignore[reportCallIssue]
    except KeyboardInterrupt:
        print("stopped; the stages go on from their checkpoints next time", file=sys.stderr)
        return 130
    if not state.is_completed():
        print(f"error: {state.message}", file=sys.stderr)
        return USER_ERROR if state.name == MISTAKE else 1
    print(f"\n{results(Path.cwd()) or 'no results yet'}")
    return 0
