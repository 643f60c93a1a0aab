"""Runs the jobs of a study in order, in threads that each wait for a process, and makes its table. Imports no Prefect.

The command `temper study` and the flow `study` both stand on it: they differ in who starts a job.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from components.foundation.errors import FROM_ROOT, InputError
from components.foundation.lines import say
from components.foundation.provenance import fingerprint
from components.foundation.storage import write_json, write_text
from pipelines.parameters.check import check
from pipelines.running.forwarder import forwarding
from pipelines.running.process import Ended
from pipelines.running.terminal import MORE_TO_DO
from pipelines.studies.file import STUDY
from pipelines.studies.job import Workplace, finished, record, run, show, tracking
from pipelines.studies.plan import Job, JobPlan, plan

STUDIES = Path("studies")
WORK = ".temper/studies"
FAILED = ("refused", "failed", "timed out")


def prepared(
    name: str,
    scale: str,
    seeds: Sequence[int],
    arms: Sequence[str],
    *,
    data: str | None = None,
    work: str = WORK,
    keep: bool = False,
    checked: bool = True,
) -> tuple[JobPlan, Workplace]:
    """The plan of a study and the place where it runs. Errors: mistakes in study.yaml, and in any arm's parameters."""
    root, folder = Path.cwd(), Path(name) if (Path(name) / STUDY).exists() else STUDIES / name
    if not (folder / STUDY).exists():
        names = ", ".join(sorted(path.parent.name for path in STUDIES.glob(f"*/{STUDY}")))
        told = f"no study {name!r}" if name else "which study?"
        if not names:
            raise InputError(f"{told} {STUDIES}/: no such folder {FROM_ROOT}")
        raise InputError(f"{told} ({STUDIES}/ has {names}; a folder with a {STUDY} will do, too)")
    planned = plan(root, folder, scale, seeds, arms)
    own = (root / work / folder.resolve().name).absolute()
    place = Workplace(root=root, work=own, data=Path(data).absolute() if data else None, keep=keep)
    if checked:
        check_arms(planned, place)
        show(planned, place)
    return planned, place


def walk(
    planned: JobPlan, place: Workplace, workers: int, start: Callable[[Job, Workplace], Ended]
) -> dict[str, Ended]:
    """How each job ended, by its folder's name; `start` gets a job once those before it have ended."""
    futures: dict[str, Future[Ended]] = {}

    def one(job: Job) -> Ended:
        for read in job.reads:
            futures[read.job.key].result()
        return start(job, place)

    # In order, so that a worker never waits for a job that no worker has taken.
    with ThreadPoolExecutor(workers) as pool:
        try:
            for job in planned.jobs:
                futures[job.key] = pool.submit(one, job)
            return {f"{title(job)} ({job.folder})": futures[job.key].result() for job in planned.jobs}
        except BaseException:
            place.stop.set()
            raise


def title(job: Job) -> str:
    """A job as logs call it, with the arm and the seed that asked for it first."""
    return f"{job.labels['arm']}-{job.labels['seed']} {job.stage}"


def collect(planned: JobPlan, place: Workplace) -> int:
    """Makes table and figure of the runs that are finished; the exit status of the process that does it."""
    described = describe(planned, place)
    if not described["runs"]:
        print("no arm is finished yet")
        return 0
    path = place.work / planned.scale / "plan.json"
    write_json(path, described)
    command = [sys.executable, "-m", "temper", "study-table", str(path), str(planned.folder / "results")]
    environment = {**os.environ, **tracking(place.root, _all_arms(planned)), **place.environment}
    return subprocess.run(command, cwd=place.root, env=environment).returncode


def run_jobs(
    planned: JobPlan,
    own: Workplace,
    workers: int,
    start: Callable[[Job, Workplace], Ended],
    stop_after: float | None,
    warn: Callable[[str], None],
) -> tuple[int, str]:
    """Runs the jobs, each by `start`, then makes table and figure; the exit status of `temper study`, and one line.

    Records are sent meanwhile; `warn` hears of those left. After `stop_after` seconds what runs is stopped.
    """
    everyone = [*(job.labels for job in planned.jobs), _all_arms(planned)]
    environments = [tracking(own.root, labels) for labels in everyone]
    pipelines = list(dict.fromkeys(one["TEMPER_PIPELINE"] for one in environments))
    timer = threading.Timer(stop_after or threading.TIMEOUT_MAX, own.stop.set)
    timer.daemon = True
    with forwarding(own.root, pipelines, {**os.environ, **environments[-1]}, warn) as told:
        place = replace(own, environment=told)
        timer.start()
        try:
            ended = walk(planned, place, workers, start)
        finally:
            timer.cancel()
        status, said = _status(ended), _summary(ended)
        if status != MORE_TO_DO and (failure := collect(planned, place)):
            return failure, said if status else "the table could not be made"
        return status, said


def _all_arms(planned: JobPlan) -> dict[str, str]:
    return {"study": planned.folder.name, "scale": planned.scale, "arm": "all"}


def describe(planned: JobPlan, place: Workplace) -> dict[str, Any]:
    """What `temper study-table` has to know: the question, and where the files of every finished run are."""
    study = planned.study
    runs = [
        {
            **{key: getattr(one, key) for key in ("name", "arm", "variant", "role", "seed")},
            "seconds": record(one.trained, place)["seconds"],
            "code": fingerprint(record(one.trained, place)["files"]),
            "trained": str(place.folder(one.trained)),
            "evaluated": str(place.folder(one.evaluated) / "evaluation"),
            "section": one.trained.told[one.trained.stage],
        }
        for one in planned.runs
        if finished(one.trained, place) and finished(one.evaluated, place)
    ]
    wanted = ("question", "claim", "role", "robust", "figure", "transfer")
    transfers = {
        str(s): str(place.folder(j) / "evaluation") for s, j in planned.transfers.items() if finished(j, place)
    }
    return {
        "study": planned.folder.name,
        "scale": planned.scale,
        **{key: getattr(study, key) for key in wanted},
        "pairs": [list(pair) for pair in study.pairs],
        "runs": runs,
        "transfers": transfers,
    }


def check_arms(planned: JobPlan, place: Workplace) -> None:
    """Returns if every arm's parameters are valid. Errors: the line that the components answer with."""
    folder = place.work / planned.scale / "params"
    texts = {folder / f"{one.name}.yaml": yaml.safe_dump(one.trained.params, sort_keys=False) for one in planned.runs}
    for file, text in texts.items():
        write_text(file, text)
    check(place.root, texts)


def _status(ended: Mapping[str, Ended]) -> int:
    """Stopped counts before failed: there is more to do."""
    how = {one.status for one in ended.values()}
    return MORE_TO_DO if "stopped" in how else int(not how.isdisjoint(FAILED))


def _summary(ended: Mapping[str, Ended]) -> str:
    """One line: what failed first, or how much is left, or that all is done."""
    for name, one in ended.items():
        if one.status in FAILED:
            return f"{name}: {one.message}"
    if left := sum(not one.well for one in ended.values()):
        return f"stopped, {left} of {len(ended)} jobs are left; the same command continues"
    return f"{len(ended)} jobs"


def run_plain(planned: JobPlan, own: Workplace, workers: int, stop_after: float | None, hours: float) -> int:
    """Runs the study in this process's threads; the exit status of `temper study`."""

    def start(job: Job, place: Workplace) -> Ended:
        ended = run(job, place, lambda line: say(f"{title(job)} | {line}"), hours * 3600)
        if ended.status != "kept":
            say(f"{title(job)}: {ended.message}")
        return ended

    def warn(line: str) -> None:
        say(f"temper: {line}", to=sys.stderr)

    status, said = run_jobs(planned, own, workers, start, stop_after, warn)
    if status:
        say(f"{'' if status == MORE_TO_DO else 'error: '}{said}", to=sys.stderr)
    return status
