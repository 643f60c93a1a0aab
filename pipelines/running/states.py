"""Ends of processes as Prefect's states, what a flow's end is then, and when a task is tried again."""

import threading
from collections.abc import Collection
from typing import Any, TypedDict

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from components.foundation.errors import InputError
from pipelines.running.process import Ended

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
    failed = next((state for state in states if state.is_failed() or state.is_crashed()), None)
    if failed:
        return Failed(name=failed.name, message=failed.message or "a process failed")
    return None if all(state.is_completed() for state in states) else Cancelled(message=stopped)


class Retries(TypedDict):
    """What `Task.with_options` takes."""

    retries: int
    retry_delay_seconds: float
    retry_jitter_factor: float
    retry_condition_fn: Any


def retries(count: int, seconds: float, stop: threading.Event) -> Retries:
    """Options of a task that is tried again `count` times, after `seconds` varied by half, until `stop` is set."""

    def worth_retrying(_task: Any, _task_run: Any, state: State[Any]) -> bool:
        return not stop.is_set() and state.name != MISTAKE

    return Retries(
        retries=count, retry_delay_seconds=seconds, retry_jitter_factor=0.5, retry_condition_fn=worth_retrying
    )
