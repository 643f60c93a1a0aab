"""Runs a study of studies/: every arm with every seed, evaluated, ending in one table and one figure.

    temper study smooth --scale cpu
    temper study smooth --scale gpu --jobs 3 --data FOLDER --stop-after 540

Finished jobs are not repeated, stopped ones continue, so the same command goes on where it was; its exit status is 0
when all is done, 1 when a job failed, 2 for a mistake, 3 when it was stopped and there is more to do. Each job is a
stage of dvc.yaml in a process and a folder of its own. With Prefect each is a task of the flow `study`; without it, or
with --plain, the same jobs run in the same order.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from components.foundation.errors import InputError
from pipelines.studies.job import Ended, Workplace, finished, record, run, show, tracking
from pipelines.studies.plan import Job, Plan, plan

STUDIES = Path("studies")
WORK = ".temper/studies"
FAILED, MISTAKE, MORE_TO_DO, INTERRUPTED = 1, 2, 3, 130
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
) -> tuple[Plan, Workplace]:
    """The plan of a study and the place where it runs. Errors: mistakes in study.yaml, and in any arm's parameters."""
    root, folder = Path.cwd(), study_folder(name)
    planned = plan(root, folder, scale, seeds, arms)
    own = (root / work / folder.resolve().name).absolute()
    place = Workplace(root=root, work=own, data=Path(data).absolute() if data else None, keep=keep)
    if checked:
        check(planned, place)
        show(planned, place)
    return planned, place


def walk(planned: Plan, place: Workplace, workers: int, start: Callable[[Job], Ended]) -> dict[str, Ended]:
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


def collect(planned: Plan, place: Workplace) -> int:
    """Makes table and figure of the runs that are finished; the exit status of `components.commands.study`."""
    described = describe(planned, place)
    if not described["runs"]:
        print("no arm is finished yet")
        return 0
    path = place.work / planned.scale / "plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "components.commands.study", str(path), "--out", str(planned.folder / "results")]
    labels = {"study": planned.folder.name, "scale": planned.scale, "arm": "all"}
    return subprocess.run(command, cwd=place.root, env={**os.environ, **tracking(place.root, labels)}).returncode


def describe(planned: Plan, place: Workplace) -> dict[str, Any]:
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
                    "code": record(one.trained, place)["code"][:16],
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


def check(planned: Plan, place: Workplace) -> None:
    """Asks the components whether every arm's parameters are valid. Error: the line they answer with."""
    files = {}
    folder = place.work / planned.scale / "params"
    folder.mkdir(parents=True, exist_ok=True)
    for one in planned.runs:
        files[one.name] = folder / f"{one.name}.yaml"
        files[one.name].write_text(yaml.safe_dump(one.trained.params, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "components.commands.check_params", *map(str, files.values())]
    answer = subprocess.run(command, cwd=place.root, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if answer.returncode:
        lines = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
        raise InputError(lines[-1].removeprefix("error: ") if lines else "the check of the parameters failed")


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


@dataclass(frozen=True, kw_only=True)
class Options:
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


def main(given: Options) -> int:
    """Runs the study; see the module's text for the exit status."""
    looks = given.list or given.collect
    common: dict[str, Any] = {"data": given.data, "work": given.work, "keep": given.keep}
    try:
        if not (looks or given.plain or importlib.util.find_spec("prefect") is None):
            return _run_flow(given, {**common, "data": given.data and str(given.data)})
        planned, place = prepared(given.study, given.scale, given.seeds, given.arms, **common, checked=not looks)
        if looks:
            return _list(planned, place) if given.list else collect(planned, place)
        return _run_plain(given, planned, place)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return INTERRUPTED


def _run_plain(given: Options, planned: Plan, place: Workplace) -> int:
    def start(job: Job) -> Ended:
        ended = run(job, place, lambda line: print(f"{title(job)} | {line}", flush=True), given.hours * 3600)
        if ended.status != "kept":
            print(f"{title(job)}: {ended.message}", flush=True)
        return ended

    def terminate(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    with stopping(place.stop, given.stop_after):
        ended = walk(planned, place, given.jobs, start)
    status = exit_status(ended)
    if status:
        print(f"{'' if status == MORE_TO_DO else 'error: '}{summary(ended)}", file=sys.stderr)
    return status if status == MORE_TO_DO else collect(planned, place) or status


def _run_flow(given: Options, common: Mapping[str, Any]) -> int:
    # Prefect reads its settings when it is imported.
    from pipelines.harden import SETTINGS

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from pipelines.flows.study import study

    options = {"seeds": list(given.seeds), "arms": list(given.arms), "jobs": given.jobs, "hours": given.hours}
    options |= {"stop_after": given.stop_after, **common}
    state = study(name=given.study, scale=given.scale, **options, return_state=True)  # pyright: ignore
    if state.is_completed():
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return {"Refused": MISTAKE, "Stopped": MORE_TO_DO}.get(state.name or "", FAILED)


def _list(planned: Plan, place: Workplace) -> int:
    for job in planned.jobs:
        state = "finished" if finished(job, place) else "to do"
        print(f"{state:8}  {title(job):40}  {place.folder(job)}")
    return 0
