"""Runs a study of studies/: every arm with every seed, evaluated, ending in one table and one figure.

    python -m pipelines.study smooth --scale cpu
    python -m pipelines.study smooth --scale gpu --jobs 3 --data FOLDER --stop-after 540

Finished jobs are not repeated, stopped ones continue, so the same command goes on where it was; its exit status is 0
when all is done, 1 when a job failed, 2 for a mistake, 3 when it was stopped and there is more to do. Each job is a
stage of dvc.yaml in a process and a folder of its own. With Prefect each is a task of the flow `study`; without it, or
with --plain, the same jobs run in the same order.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from components.foundation.process import USER_ERROR
from pipelines.studies.job import Workplace, finished
from pipelines.studies.plan import Plan
from pipelines.studies.runner import FAILED, MORE_TO_DO, WORK, collect, prepared, run_plain, title

INTERRUPTED = 130


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("study", help="a folder of studies/, or any folder with a study.yaml")
    add("--scale", default="cpu", help="a size that study.yaml has (default: cpu)")
    add("--seeds", type=int, nargs="+", default=[], help="only these (default: study.yaml's)")
    add("--arms", nargs="+", default=[], help="only these (default: all)")
    add("--jobs", type=int, default=1, metavar="N", help="that many jobs at the same time (default: 1)")
    add("--data", type=Path, metavar="FOLDER", help="downloaded data sets, in torchvision's layout")
    add("--work", default=WORK, metavar="FOLDER", help=f"where jobs run (default: {WORK})")
    add("--stop-after", type=float, metavar="SECONDS", help="stop what runs then; the same command continues")
    add("--hours", type=float, default=24, help="limit for one attempt at one job (default: 24)")
    add("--keep", action="store_true", help="take what other versions of the code have finished")
    add("--plain", action="store_true", help="without Prefect, where there is one")
    add("--list", action="store_true", help="print the jobs and whether they are finished, run nothing")
    add("--collect", action="store_true", help="run nothing, make table and figure of what is finished")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study; see the module's text for the exit status."""
    given = _arguments(arguments)
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


def _run_flow(given: argparse.Namespace, common: Mapping[str, Any]) -> int:
    # Prefect reads its settings when it is imported.
    from pipelines.harden import SETTINGS

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from pipelines.flows.study import study

    options = {"seeds": given.seeds, "arms": given.arms, "jobs": given.jobs, "hours": given.hours}
    options |= {"stop_after": given.stop_after, **common}
    state = study(name=given.study, scale=given.scale, **options, return_state=True)  # pyright: ignore
    if state.is_completed():
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return {"Refused": USER_ERROR, "Stopped": MORE_TO_DO}.get(state.name or "", FAILED)


def _list(planned: Plan, place: Workplace) -> int:
    for job in planned.jobs:
        state = "finished" if finished(job, place) else "to do"
        print(f"{state:8}  {title(job):40}  {place.folder(job)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
