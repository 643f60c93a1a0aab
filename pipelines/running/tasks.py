"""What the tasks of all flows share: the processes of a run, and their ends as Prefect's states."""

import os
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from components.foundation.errors import InputError
from components.foundation.process import new_pipeline_id
from pipelines.running import process
from pipelines.running.process import Ended, ProcessEnd

MISTAKE = "Refused"
"""Name of a state that a user's mistake has led to: running it again would not help."""
STOPPED = "Stopped"
"""Name of the state of a flow that the same command continues."""
_STATES = {
    "ran": (Completed, None),
    "kept": (Completed, "Cached"),
    "refused": (Failed, MISTAKE),
    "failed": (Failed, None),
    "timed out": (Failed, "TimedOut"),
    "skipped": (Cancelled, "Skipped"),
    "stopped": (Cancelled, None),
}


def environment(**extra: str) -> dict[str, str]:
    """This process's environment for a stage: `python` is this interpreter, no output held back, no telemetry."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1", **extra}


def _own_environment() -> dict[str, str]:
    return environment(TEMPER_PIPELINE=new_pipeline_id(datetime.now(UTC)), TEMPER_FLOW_RUN=str(flow_run.id))


@dataclass(frozen=True, kw_only=True)
class FlowRun:
    """What all processes of one flow run share."""

    time_limit: float
    """Seconds for one attempt at one process."""
    gpu: bool
    force: bool = False
    root: Path = field(default_factory=Path.cwd)
    environment: dict[str, str] = field(default_factory=_own_environment)
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when the flow is ending: processes stop, nothing is tried again."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage's last attempt."""
    tell: Callable[[str], None] = field(default=lambda line: None)
    """Takes each line of a stage that says how far it is."""

    @property
    def pipeline(self) -> str:
        """The name of the pipeline run."""
        return self.environment["TEMPER_PIPELINE"]

    def process(self, command: Sequence[str], log: Callable[[str], None], **extra: str) -> ProcessEnd:
        """Runs a command, with more in its environment, and says how it ended."""
        limits = {"stop": self.stop, "time_limit": self.time_limit}
        return process.run(command, root=self.root, environment=self.environment | extra, log=log, **limits)


def state_of(ended: Ended) -> State[Any]:
    """The state of a task whose process ended so: Completed, Cached, Failed, Refused, TimedOut, Skipped, Cancelled."""
    make, name = _STATES[ended.status]
    return make(message=ended.message, **({"name": name} if name else {}))


def refused(error: InputError) -> State[Any]:
    """The end of a flow that a user's mistake has kept from starting."""
    return state_of(Ended("refused", str(error)))


def unfinished(states: Collection[State[Any]], stopped: str) -> State[Any] | None:
    """The end of a flow whose tasks ended so: that of the first that failed, else Cancelled; None if all completed.

    `stopped` is what a person reads where a task was cancelled.
    """
    if failed := next((state for state in states if state.is_failed() or state.is_crashed()), None):
        return Failed(name=failed.name, message=failed.message or "a process failed")
    return None if all(state.is_completed() for state in states) else Cancelled(message=stopped)
