"""Runs a study of studies/ for a terminal: as the flow `study`, or without Prefect the same jobs in the same order.

Each job is a stage of dvc.yaml in a process and a folder of its own. With Prefect it is a task.
"""

import importlib.util
from typing import Any

from components.foundation.lines import say
from pipelines.running.terminal import configure, interruptible, status_of
from pipelines.studies import runner
from pipelines.studies.job import Workplace, finished
from pipelines.studies.plan import JobPlan


def run(*, jobs: int, stop_after: float | None, hours: float, plain: bool, **chosen: Any) -> int:
    """Runs the study that `runner.prepared` makes of `chosen`; the exit status is as `temper study --help` says.

    It is 130 when interrupted. Errors: mistakes in study.yaml, and in any arm's parameters.
    """

    def start() -> int:
        planned, place = runner.prepared(**chosen)
        if plain or importlib.util.find_spec("prefect") is None:
            return runner.run_plain(planned, place, jobs, stop_after, hours)
        configure()
        from pipelines.flows.study import study

        return status_of(study, **chosen, jobs=jobs, stop_after=stop_after, hours=hours)

    return interruptible(start, "stopped; the same command continues")


def list_jobs(planned: JobPlan, place: Workplace) -> int:
    """Prints a line per job: whether it is finished, what it is and where; 0."""
    for job in planned.jobs:
        state = "finished" if finished(job, place) else "to do"
        say(f"{state:8}  {runner.title(job):40}  {place.folder(job)}")
    return 0
