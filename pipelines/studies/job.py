"""Runs one job of a study as a process in a folder of its own, or finds it finished there. Imports no Prefect.

A folder is finished when its record says so, with the hashes of the code and of the files that are there now. What was
begun with other code or other files is thrown away; the rest is continued from the stage's own checkpoint.
"""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.foundation.provenance import code_of, differences
from components.foundation.storage import locked, read_state, sha256, write_json
from pipelines.running import process
from pipelines.running.process import Ended, meaning
from pipelines.studies.plan import Job, JobPlan

RECORD = "job.json"
# As many as one line can hold.
SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where and how the jobs of a study run."""

    root: Path
    """The project's."""
    work: Path
    """Of this study: `jobs/`, and `SCALE/ARM-SEED/` with a link to each job of an arm."""
    data: Path | None = None
    """Folder with downloaded data sets, in torchvision's layout."""
    keep: bool = False
    """Take what other code has finished."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the processes of all jobs get besides."""
    stop: threading.Event = field(default_factory=threading.Event)
    """When set, processes are stopped, and none is started."""

    def folder(self, job: Job) -> Path:
        return self.work / "jobs" / job.folder


def run(job: Job, place: Workplace, log: Callable[[str], None], time_limit: float) -> Ended:
    """Runs a job unless it is finished; one that reads from a job that did not finish is skipped.

    Another process that runs the same job is waited for. `time_limit` is seconds for this attempt.
    """
    folder = place.folder(job)
    if any(not record(read.job, place).get("finished") for read in job.reads):
        return Ended("skipped", "the jobs before it did not finish")
    with _owned(folder, place.stop):
        if place.stop.is_set():
            return Ended("stopped", "stopped before it started")
        if finished(job, place):
            return Ended("kept", "finished before")
        spent = _prepare(job, place, log)
        log(f"in {folder.relative_to(place.root) if folder.is_relative_to(place.root) else folder}")
        began, limits = time.monotonic(), {"stop": place.stop, "time_limit": time_limit}
        outcome = process.run(job.command, root=folder, environment=_environment(job, place), log=log, **limits)
        done = outcome.returncode == 0 and outcome.ended_by == "itself"
        _write(job, place, finished=done, seconds=spent + time.monotonic() - began)
    return meaning(outcome, time_limit)


def finished(job: Job, place: Workplace) -> bool:
    """Whether the job's files are there, made by the code and from the files of now (by any code with `keep`)."""
    found, folder = record(job, place), place.folder(job)
    if not found.get("finished") or not all((folder / path).exists() for path in job.writes):
        return False
    code = found["files"] if place.keep else code_of(job.code, place.root)
    return (found["files"], found["reads"]) == (code, _hashes_read(job, place))


def record(job: Job, place: Workplace) -> dict[str, Any]:
    """What is noted about a job: `finished`, `seconds` of all attempts; hashes of code files, reads and writes."""
    return read_state(place.folder(job) / RECORD)


def show(plan: JobPlan, place: Workplace) -> None:
    """Puts a folder SCALE/ARM-SEED for every run under the study's, with links to its jobs, for people to find them."""
    for run_ in plan.runs:
        folder = place.work / plan.scale / f"{run_.name}-{run_.seed}"
        for job in _with_upstream(run_.evaluated):
            _link(place.folder(job), folder / job.stage)


def _with_upstream(job: Job) -> Iterator[Job]:
    yield job
    for read in job.reads:
        yield from _with_upstream(read.job)


def _prepare(job: Job, place: Workplace, log: Callable[[str], None]) -> float:
    """The folder with parameters and linked inputs, emptied where it was begun otherwise; seconds spent so far."""
    folder, before = place.folder(job), record(job, place)
    code, reads = code_of(job.code, place.root), _hashes_read(job, place)
    if folder.exists() and (before.get("files"), before.get("reads")) != (code, reads):
        changes = differences(before.get("files", {}) | before.get("reads", {}), code | reads)
        names = [text.split(":")[0] for text in changes]
        log(f"starts anew, what is there is of other {', '.join(names[:SHOWN])}{' and more' * (len(names) > SHOWN)}")
        shutil.rmtree(folder)
        before = {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(job.params, sort_keys=False), encoding="utf-8")
    # One place for the records of all jobs: `temper records send` in the root finds them.
    journals = place.root / ".temper" / "journals"
    journals.mkdir(parents=True, exist_ok=True)
    _link(journals, folder / ".temper" / "journals")
    for read in job.reads:
        _link(place.folder(read.job) / read.source, folder / read.path)
    _write(job, place, finished=False, seconds=before.get("seconds", 0.0))
    return before.get("seconds", 0.0)


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


def _write(job: Job, place: Workplace, finished: bool, seconds: float) -> None:
    folder = place.folder(job)
    noted = {
        "stage": job.stage,
        "labels": dict(job.labels),
        "finished": finished,
        "seconds": round(seconds, 2),
        "files": code_of(job.code, place.root),
        "reads": _hashes_read(job, place),
        "writes": {path: _sha256(folder / path) for path in job.writes} if finished else {},
    }
    write_json(folder / RECORD, noted)


def _hashes_read(job: Job, place: Workplace) -> dict[str, str]:
    return {read.path: record(read.job, place).get("writes", {}).get(read.source, "") for read in job.reads}


def _sha256(path: Path) -> str:
    """Of a file, or of all files in a folder."""
    if path.is_dir():
        return hashlib.sha256("".join(map(_sha256, sorted(path.iterdir()))).encode()).hexdigest()
    return sha256(path)


def _environment(job: Job, place: Workplace) -> Mapping[str, str]:
    given = os.environ
    own = {
        "PYTHONPATH": os.pathsep.join([str(place.root), *filter(None, [given.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "1",
        "TEMPER_DATA": str(place.data or given.get("TEMPER_DATA") or place.root / ".temper" / "downloads"),
    }
    return {**given, **own, **tracking(place.root, job.labels), **place.environment}


def tracking(root: Path, labels: Mapping[str, str]) -> dict[str, str]:
    """The environment that puts all records of a study into one MLflow experiment, a pipeline run per arm and seed."""
    return {
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}",
        "MLFLOW_EXPERIMENT_NAME": f"temper-study-{labels['study']}",
        "TEMPER_PIPELINE": "-".join(labels.values()),
        "TEMPER_LABELS": json.dumps(dict(labels)),
    }


@contextmanager
def _owned(folder: Path, stop: threading.Event) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("wb") as lock:
        while not (stop.is_set() or locked(lock.fileno())):
            stop.wait(0.5)
        yield
