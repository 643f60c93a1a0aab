"""Runs the jobs of a study in order, in threads that each wait for a process, and makes its table. Imports no Prefect.

The command `pipelines.study` and the flow `study` both stand on it: they differ in who starts a job.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from components.foundation.provenance import fingerprint
from components.foundation.storage import write_json, write_text
from pipelines.parameters.check import check
from pipelines.running.forwarder import forwarding
from pipelines.studies.job import Ended, Workplace, finished, record, run, show, tracking
from pipelines.studies.plan import Job, JobPlan, plan

STUDIES = Path("studies")
WORK = ".temper/studies"
FAILED, MORE_TO_DO = 1, 3
STATUS = {"refused": FAILED, "failed": FAILED, "stopped": MORE_TO_DO, "skipped": 0, "ran": 0, "kept": 0}


def study_folder(name: str) -> Path:
    """The folder of a study: studies/NAME, or any folder with a study.yaml."""
    return Path(name) if (Path(name) / "study.yaml").exists() else STUDIES / name


def prepared(
    name: str,
    scale: str,
    seeds: Sequence[int],
    arms: Sequence[str],
    *,
    data: str | Path | None = None,
    work: str | Path = WORK,
    keep: bool = False,
    checked: bool = True,
) -> tuple[JobPlan, Workplace]:
    """The plan of a study and the place where it runs. Errors: mistakes in study.yaml, and in any arm's parameters."""
    root, folder = Path.cwd(), study_folder(name)
    planned = plan(root, folder, scale, seeds, arms)
    own = (root / work / folder.resolve().name).absolute()
    place = Workplace(root=root, work=own, data=Path(data).absolute() if data else None, keep=keep)
    if checked:
        check_arms(planned, place)
        show(planned, place)
    return planned, place


def walk(planned: JobPlan, place: Workplace, workers: int, start: Callable[[Job], Ended]) -> dict[str, Ended]:
    """How each job ended, by its folder's name; `start` gets a job once those before it have ended."""
    futures: dict[str, Future[Ended]] = {}

    def one(job: Job) -> Ended:
        for read in job.reads:
            futures[read.job.key].result()
        return start(job)

    # In order, so that a worker never waits for a job that no worker has taken.
    with ThreadPoolExecutor(workers) as pool:
        try:
            for job in planned.jobs:
                futures[job.key] = pool.submit(one, job)
            return {f"{title(job)} ({job.folder})": futures[job.key].result() for job in planned.jobs}
        except BaseException:
            place.stop.set()
            raise


@contextmanager
def stopping(stop: threading.Event, seconds: float | None) -> Iterator[None]:
    """Sets `stop` after so many seconds, unless the block has ended by then."""
    timer = threading.Timer(seconds, stop.set) if seconds else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.cancel()


def title(job: Job) -> str:
    """A job as logs call it, with the arm and the seed that asked for it first."""
    return f"{job.labels['arm']}-{job.labels['seed']} {job.stage}"


def collect(planned: JobPlan, place: Workplace) -> int:
    """Makes table and figure of the runs that are finished; the exit status of `components.commands.study`."""
    described = describe(planned, place)
    if not described["runs"]:
        print("no arm is finished yet")
        return 0
    path = place.work / planned.scale / "plan.json"
    write_json(path, described)
    command = [sys.executable, "-m", "components.commands.study", str(path), "--out", str(planned.folder / "results")]
    environment = {**os.environ, **tracking(place.root, _all_arms(planned)), **place.environment}
    return subprocess.run(command, cwd=place.root, env=environment).returncode


@contextmanager
def forwarded(planned: JobPlan, place: Workplace, warn: Callable[[str], None]) -> Iterator[Workplace]:
    """The place for jobs whose records are sent while the block runs, and the table's, too."""
    every = [*(job.labels for job in planned.jobs), _all_arms(planned)]
    environments = [tracking(place.root, labels) for labels in every]
    pipelines = list(dict.fromkeys(one["TEMPER_PIPELINE"] for one in environments))
    with forwarding(place.root, pipelines, {**os.environ, **environments[-1]}, warn) as told:
        yield replace(place, environment=told)


def _all_arms(planned: JobPlan) -> dict[str, str]:
    return {"study": planned.folder.name, "scale": planned.scale, "arm": "all"}


def describe(planned: JobPlan, place: Workplace) -> dict[str, Any]:
    """What `components.commands.study` has to know: the question, and where the files of every finished run are."""
    study = planned.study
    runs = []
    for one in planned.runs:
        if finished(one.trained, place) and finished(one.evaluated, place):
            runs.append(
                {
                    "name": one.name,
                    "arm": one.arm,
                    "variant": one.variant,
                    "seed": one.seed,
                    "trained": str(place.folder(one.trained)),
                    "evaluated": str(place.folder(one.evaluated) / "evaluation"),
                    "seconds": record(one.trained, place)["seconds"],
                    "code": fingerprint(record(one.trained, place)["files"]),
                    "section": one.trained.told[one.trained.stage],
                }
            )
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
    files = {one.name: folder / f"{one.name}.yaml" for one in planned.runs}
    for one in planned.runs:
        write_text(files[one.name], yaml.safe_dump(one.trained.params, sort_keys=False))
    check(place.root, files.values())


def exit_status(ended: Mapping[str, Ended]) -> int:
    """Stopped counts before failed: there is more to do."""
    return max((STATUS[one.status] for one in ended.values()), default=0)


def summary(ended: Mapping[str, Ended]) -> str:
    """One line: what failed first, or how much is left, or that all is done."""
    for name, one in ended.items():
        if one.status in ("refused", "failed"):
            return f"{name}: {one.message}"
    left = sum(not one.well for one in ended.values())
    return (
        f"stopped, {left} of {len(ended)} jobs are left; the same command continues" if left else f"{len(ended)} jobs"
    )


def run_plain(planned: JobPlan, own: Workplace, workers: int, stop_after: float | None, hours: float) -> int:
    """Runs the jobs, then makes table and figure; the exit status of `pipelines.study`."""

    def start(job: Job) -> Ended:
        ended = run(job, place, lambda line: print(f"{title(job)} | {line}", flush=True), hours * 3600)
        if ended.status != "kept":
            print(f"{title(job)}: {ended.message}", flush=True)
        return ended

    def terminate(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    with forwarded(planned, own, lambda line: print(f"temper: {line}", file=sys.stderr)) as place:
        with stopping(place.stop, stop_after):
            ended = walk(planned, place, workers, start)
        status = exit_status(ended)
        if status:
            print(f"{'' if status == MORE_TO_DO else 'error: '}{summary(ended)}", file=sys.stderr)
        return status if status == MORE_TO_DO else collect(planned, place) or status
