"""The one process that sends the records of a flow's stages to MLflow: live while they run, and the rest at the end."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from components.foundation.child import Child
from components.foundation.process import LATER, OFF, SWITCH, WORK

# Importing MLflow takes a few seconds, a model its upload. A Prefect worker kills a cancelled flow after 30 s, of which
# stopping the stages takes up to 20 (process.STOP_SEQUENCE).
FINISH_SECONDS, INTERRUPTED_SECONDS = 60, 6


@contextmanager
def forwarding(
    root: Path, pipelines: Sequence[str], environment: Mapping[str, str], warn: Callable[[str], None]
) -> Iterator[dict[str, str]]:
    """What a stage's environment needs besides, so that it leaves its records to the process that this block has.

    Args:
        root: the project's folder.
        pipelines: TEMPER_PIPELINE of the stages that record, one name or several; none, no process.
        environment: of the process; says where MLflow is.
        warn: takes one line if records are left unsent.
    """
    if not pipelines or environment.get(SWITCH, "").lower() == OFF:
        yield {}
        return
    (root / WORK).mkdir(parents=True, exist_ok=True)
    log = root / WORK / "forwarder.log"
    command = [sys.executable, "-m", "temper", "records", "forward", *pipelines]
    child = Child(command, log=log, root=root, environment=environment)
    seconds = INTERRUPTED_SECONDS
    try:
        yield {SWITCH: LATER}
        seconds = FINISH_SECONDS
    finally:
        if child.finish(seconds) != 0:
            warn(f"records for the tracker are still unsent (see {log}); later: temper records send")
