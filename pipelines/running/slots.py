"""Slots of the GPUs: at most so many stages compute on them at a time."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from prefect import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

GPU_LIMIT = "temper-gpu"
# A killed worker's slot is free again after this many seconds; a live one renews it.
LEASE_SECONDS = 60
SLOT_SECONDS = 10


def gpu_in_use(device: object) -> bool:
    """Whether stages compute on a GPU: the parameter `compute.device` allows it and the machine has a driver."""
    return device != "cpu" and shutil.which("nvidia-smi") is not None


@contextmanager
def gpu_slot(wanted: bool, stop: threading.Event, log: Callable[[str], None], count: int = 1) -> Iterator[None]:
    """Holds slots of the limit `temper-gpu` where processes compute on GPUs; no such limit, no waiting.

    `count` slots at once, or all there are where there are fewer: processes that wait for each other must not wait for
    each other's slots.
    """
    with ExitStack() as slot:
        if wanted and (limit := _limit()):
            log(f"waiting for a slot of {GPU_LIMIT}")
            while not (stop.is_set() or _entered(slot, min(count, limit))):
                pass
        yield


def _entered(slot: ExitStack, count: int) -> bool:
    # Short waits, so that a flow that is being stopped does not hang here.
    held = concurrency(GPU_LIMIT, occupy=count, timeout_seconds=SLOT_SECONDS, lease_duration=LEASE_SECONDS)
    try:
        slot.enter_context(held)
    except TimeoutError:
        return False
    return True


def _limit() -> int:
    """How many slots there are; 0 where there is no such limit."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit
        except ObjectNotFound:
            return 0
