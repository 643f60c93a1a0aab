"""When Prefect tries a process again: after an accident, never after a user's mistake, never once all is stopping."""

import threading
from typing import Any, TypedDict

from prefect.client.schemas.objects import State

from pipelines.running.process import MISTAKE


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
