"""When Prefect tries a process again: after an accident, never after a user's mistake, never once all is stopping."""

import threading
from typing import Any

from prefect.client.schemas.objects import State

from pipelines.running.tasks import MISTAKE


def retries(count: int, seconds: float, stop: threading.Event) -> dict[str, Any]:
    """Options of a task: it is tried again `count` times, after `seconds` varied by half, until `stop` is set."""

    def worth_retrying(_task: Any, _task_run: Any, state: State[Any]) -> bool:
        return not stop.is_set() and state.name != MISTAKE

    delay = {"retry_delay_seconds": seconds, "retry_jitter_factor": 0.5}
    return {"retries": count, "retry_condition_fn": worth_retrying, **delay}
