"""Runs a study of studies/ for a terminal: as the flow `study`, or without Prefect the same jobs in the same order.

Each job is a stage of dvc.yaml in a process and a folder of its own. With Prefect it is a task.
"""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from components.foundation.process import USER_ERROR
from pipelines.harden import configure
from pipelines.running.process import MISTAKE
from pipelines.studies.job import Workplace, finished
from pipelines.studies.plan import JobPlan
from pipelines.studies.runner import FAILED, MORE_TO_DO, WORK, collect, prepared, run_plain, title

INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What a run of a study is asked for; `temper study --help` says what each means."""

    study: str
    scale: str = "cpu"
    seeds: Sequence[int] = ()
    arms: Sequence[str] = ()
    jobs: int = 1
    data: Path | None = None
    work: str = WORK
    stop_after: float | None = None
    hours: float = 24
    keep: bool = False
    plain: bool = False
    list: bool = False
    collect: bool = False


def main(given: StudyOptions) -> int:
    """Runs the study; the exit status is as `temper study --help` says, and 130 when interrupted."""
    looks = given.list or given.collect
    common: dict[str, Any] = {"data": given.data, "work": given.work, "keep": given.keep}
    try:
        if not (looks or given.plain or importlib.util.find_spec("prefect") is None):
            return _run_flow(given, {**common, "data": given.data and str(given.data)})
        planned, place = prepared(given.study, given.scale, given.seeds, given.arms, **common, checked=not looks)
        if looks:
            return _list(planned, place) if given.list else collect(planned, place)
        return run_plain(planned, place, given.jobs, given.stop_after, given.hours)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return INTERRUPTED


def _run_flow(given: StudyOptions, common: Mapping[str, Any]) -> int:
    configure()
    from pipelines.flows.study import study

    options = {"seeds": list(given.seeds), "arms": list(given.arms), "jobs": given.jobs, "hours": given.hours}
    options |= {"stop_after": given.stop_after, **common}
    state = study(name=given.study, scale=given.scale, **options, return_state=True)  # pyright: ignore
    if state.is_completed():
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return {MISTAKE: USER_ERROR, "Stopped": MORE_TO_DO}.get(state.name or "", FAILED)


def _list(planned: JobPlan, place: Workplace) -> int:
    for job in planned.jobs:
        state = "finished" if finished(job, place) else "to do"
        print(f"{state:8}  {title(job):40}  {place.folder(job)}")
    return 0
