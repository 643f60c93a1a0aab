"""Whether a flow is to be cancelled, asked of Prefect's server.

Prefect's own worker gives up looking for cancellations once its server was away, so a flow looks itself.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.runtime import flow_run

ASK_SECONDS = 15.0


@contextmanager
def cancellable(stop: threading.Event, seconds: float = ASK_SECONDS) -> Iterator[None]:
    """Inside the block `stop` is set once this flow's run is being cancelled, also after its server was away."""
    ended, run = threading.Event(), flow_run.id

    def look() -> None:
        while not ended.wait(seconds):
            if _is_cancelled(str(run)):
                stop.set()
                return

    if run:
        threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _is_cancelled(run: str) -> bool:
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(run)).state
    except Exception:
        # Whatever is wrong with the server, the stages go on, and the next look may find it well.
        return False
    return state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED)
