"""One stage of dvc.yaml as a Prefect task: its process, its GPU slot, its retries, and what its end means."""

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run, task_run
from prefect.states import Cancelled, Completed, Failed

from components.foundation.process import USER_ERROR
from pipelines.graph import Stage
from pipelines.running import process
from pipelines.running.process import MISTAKE
from pipelines.running.retries import retries
from pipelines.running.slots import gpu_slot

ALARM_EVENT = "temper.sentinel.alarm"
# What the overfitting sentinel says of an alarm, and what it did: components/training/sentinel/watch.py.
_ALARM = re.compile(r"^sentinel: epoch (?P<epoch>[\d.]+): (?P<what>.*\)): (?P<done>.*)$")
_CODE = re.compile(r", exited with (-?\d+)$")
_SKIPPED = re.compile(r"^Stage '.*' (didn't change, skipping|is cached - skipping run, checking out outputs)$")
# DVC's advice to a person at a terminal, of no use in a log.
_ADVICE = re.compile(
    r"^(To track the changes|To enable auto|\s+git add |\s+dvc config |Use `dvc push`|(Generating|Updating) lock file)"
)


@dataclass(frozen=True, kw_only=True)
class FlowRun:
    """What all stages of one flow run share."""

    root: Path
    environment: Mapping[str, str]
    force: bool
    time_limit: float
    """Seconds for one attempt at one stage."""
    gpu: bool
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when the flow is ending: processes stop, nothing is tried again."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage's last attempt."""


def stage_task(run: FlowRun, stage: Stage, count: int, delay: float) -> Task[..., Any]:
    """The task of one stage, tried again `count` times; call `.submit(run, stage, wait_for=...)` on it."""
    return run_stage.with_options(name=stage.name, task_run_name=stage.name, **retries(count, delay, run.stop))


# DVC is the cache; results are files that DVC owns.
@task(cache_policy=NO_CACHE, persist_result=False)
def run_stage(run: FlowRun, stage: Stage) -> State[Any]:
    """The end of one stage: Completed, Cached, Failed, Refused, TimedOut or Cancelled, with one line in its message."""
    logger = get_run_logger()
    if not (stage.stale or run.force):
        logger.info("up to date")
        return Completed(name="Cached", message="up to date")
    with gpu_slot(run.gpu and stage.uses_device, run.stop, logger.info):
        if run.stop.is_set():
            return Cancelled(message=f"{stage.name}: stopped before it started")
        started = time.monotonic()
        outcome = process.run(
            dvc_command(stage.name, run.force),
            root=run.root,
            environment=run.environment,
            log=_with_events(_without_advice(logger.info), stage.name, str(task_run.id), str(flow_run.id)),
            stop=run.stop,
            time_limit=run.time_limit,
        )
        run.seconds[stage.name] = time.monotonic() - started
    return end_state(stage.name, outcome, run.time_limit)


def dvc_command(stage: str, force: bool) -> list[str]:
    """What a person would type to run this stage alone."""
    # Two stages end at the same time now and then: the second waits to write dvc.lock.
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item"]
    return [*command, *(["--force"] if force else []), stage]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment for a stage: `python` is this interpreter, no output held back, no telemetry."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1", **extra}


def end_state(stage: str, outcome: process.ProcessEnd, time_limit: float) -> State[Any]:
    """The Prefect state for how a stage's process ended."""
    if outcome.ended_by == "stop":
        return Cancelled(message=f"{stage}: stopped")
    if outcome.ended_by == "time limit":
        return Failed(name="TimedOut", message=f"{stage}: stopped after its time limit of {time_limit:g} s")
    if outcome.returncode == 0:
        skipped = any(_SKIPPED.match(line) for line in outcome.lines)
        return Completed(name="Cached", message="unchanged") if skipped else Completed(message="ran")
    return _failed(stage, outcome.lines, outcome.returncode)


def unfinished(states: Collection[State[Any]], what: str, stopped: str) -> State[Any] | None:
    """The end of a flow whose tasks ended so: that of the first that failed, else Cancelled; None if all completed.

    `what` failed where a task says nothing; `stopped` is what a person reads where one was cancelled.
    """
    failed = next((state for state in states if state.is_failed() or state.is_crashed()), None)
    if failed:
        return Failed(name=failed.name, message=failed.message or f"{what} failed")
    return None if all(state.is_completed() for state in states) else Cancelled(message=stopped)


def _failed(stage: str, lines: Sequence[str], returncode: int) -> State[Any]:
    """DVC exits with 255 whatever happened: the stage's code is in DVC's last line, the reason in the line before."""
    last = next((index for index in reversed(range(len(lines))) if lines[index].startswith("ERROR: ")), len(lines))
    code = _CODE.search(lines[last]) if last < len(lines) else None
    if code is None:
        reason = lines[last].removeprefix("ERROR: ") if last < len(lines) else f"dvc ended with code {returncode}"
        return Failed(message=f"{stage}: {reason}")
    said = next((line for line in reversed(lines[:last]) if not line.startswith("> ")), "no output")
    if int(code[1]) == USER_ERROR:
        return Failed(name=MISTAKE, message=f"{stage}: {said.removeprefix(f'{stage}: ').removeprefix('error: ')}")
    return Failed(message=f"{stage}: {said} (exit code {code[1]})")


def _without_advice(log: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: None if _ADVICE.match(line) else log(line)


def _with_events(log: Callable[[str], None], stage: str, task_id: str, flow_id: str) -> Callable[[str], None]:
    """`log`, which also emits an event for each alarm of the sentinel, for automations to act on.

    Its resource is the stage's task run, its payload the stage, the epoch, what was seen and what was done.
    """
    resource = {"prefect.resource.id": f"prefect.task-run.{task_id}", "prefect.resource.name": stage}
    related = [{"prefect.resource.id": f"prefect.flow-run.{flow_id}", "prefect.resource.role": "flow-run"}]

    def log_and_emit(line: str) -> None:
        log(line)
        if alarm := _ALARM.match(line):
            payload = {"stage": stage, **alarm.groupdict()}
            emit_event(ALARM_EVENT, resource=resource, related=related, payload=payload)

    return log_and_emit
