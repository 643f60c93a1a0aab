"""One stage of dvc.yaml as a Prefect task: its process, its GPU slot, and what its end means."""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run, task_run

from pipelines.graph import BUSY, BUSY_POLL_SECONDS, BUSY_SECONDS, Stage
from pipelines.running.process import Ended, ProcessEnd, meaning
from pipelines.running.slots import gpu_slot
from pipelines.running.tasks import FlowRun, state_of

ALARM_EVENT = "temper.sentinel.alarm"
# What the overfitting sentinel says of an alarm, and what it did: components/training/sentinel/watch.py.
_ALARM = re.compile(r"^sentinel: epoch (?P<epoch>[\d.]+): (?P<what>.*\)): (?P<done>.*)$")
# So much of so much, and how long the rest takes: of an epoch (components/training), of an attack's images.
_PROGRESS = re.compile(r"\d+/\d+\b.* left$")
_CODE = re.compile(r", exited with (-?\d+)$")
_SKIPPED = re.compile(r"^Stage '.*' (didn't change, skipping|is cached - skipping run, checking out outputs)$")
# DVC's advice to a person at a terminal, of no use in a log.
_ADVICE = re.compile(
    r"^(To track the changes|To enable auto|\s+git add |\s+dvc config |Use `dvc push`|(Generating|Updating) lock file)"
)


# DVC is the cache; results are files that DVC owns.
@task(cache_policy=NO_CACHE, persist_result=False)
def run_stage(run: FlowRun, stage: Stage) -> State[Any]:
    """The end of one stage: Completed, Cached, Failed, Refused, TimedOut or Cancelled, with one line in its message."""
    logger = get_run_logger()
    if not (stage.stale or run.force):
        logger.info("up to date")
        return state_of(Ended("kept", "up to date"))
    with gpu_slot(run.gpu and stage.uses_device, run.stop, logger.info):
        if run.stop.is_set():
            return state_of(Ended("stopped", f"{stage.name}: stopped before it started"))
        started = time.monotonic()
        log = _with_progress(_without_advice(logger.info), stage.name, run.tell)
        log = _with_events(log, stage.name, str(task_run.id), str(flow_run.id))
        end = _past_dvc(lambda: run.process(dvc_command(stage.name, run.force), log), run.stop)
        run.seconds[stage.name] = time.monotonic() - started
    return end_state(stage.name, end, run.time_limit)


def _past_dvc(process: Callable[[], ProcessEnd], stop: Event) -> ProcessEnd:
    """How a process of DVC ended; where another one, such as `dvc repro`, has its files for a moment, that of the next.

    A stage of another `dvc repro` refuses to run beside this flow, so what is busy is soon free.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        end = process()
        busy = end.returncode != 0 and any(line.startswith("ERROR: ") and BUSY.search(line) for line in end.lines)
        if not busy or time.monotonic() > deadline or stop.wait(BUSY_POLL_SECONDS):
            return end


def dvc_command(stage: str, force: bool) -> list[str]:
    """What a person would type to run this stage alone."""
    # Two stages end at the same time now and then: the second waits to write dvc.lock.
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item"]
    return [*command, *(["--force"] if force else []), stage]


def end_state(stage: str, end: ProcessEnd, time_limit: float) -> State[Any]:
    """The Prefect state for how a stage's process ended."""
    ended = meaning(_behind_dvc(end), time_limit)
    if ended.well and any(_SKIPPED.match(line) for line in end.lines):
        return state_of(Ended("kept", "unchanged"))
    said = ended.message.removeprefix(f"{stage}: ")
    return state_of(ended if ended.well else Ended(ended.status, f"{stage}: {said}"))


def _behind_dvc(end: ProcessEnd) -> ProcessEnd:
    """How the stage ended: DVC's code is 255; the stage's is in DVC's last line, and the reason in the line before."""
    last = next((index for index, line in reversed([*enumerate(end.lines)]) if line.startswith("ERROR: ")), None)
    if end.returncode == 0 or last is None:
        return end
    code = _CODE.search(end.lines[last])
    if code is None:
        return replace(end, lines=(end.lines[last].removeprefix("ERROR: "),))
    said = next((line for line in reversed(end.lines[:last]) if not line.startswith("> ")), "no output")
    return replace(end, returncode=int(code[1]), lines=(said,))


def _without_advice(log: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: None if _ADVICE.match(line) else log(line)


def _with_progress(log: Callable[[str], None], stage: str, tell: Callable[[str], None]) -> Callable[[str], None]:
    """`log`, which also tells the flow how far the stage is, where a line says so."""

    def log_and_tell(line: str) -> None:
        log(line)
        if _PROGRESS.search(line):
            tell(line if line.startswith(stage) else f"{stage}: {line}")

    return log_and_tell


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
