"""The boxes of dvc.yaml, one file each: read parameters, call the core, write files. Here: what all boxes do alike."""

import components.foundation.loading  # noqa: F401

# isort: split
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from components.foundation.checkout import require_free
from components.foundation.errors import InputError
from components.foundation.memory import within_memory
from components.foundation.params import Params
from components.foundation.process import RECIPE, WORK, as_process
from components.foundation.provenance import fingerprint, git_commit, inputs_of, versions
from components.foundation.recipes import title_of
from components.foundation.starter import end_with_dvc
from components.foundation.storage import write_json
from components.numerics.threads import forget, keep, settled
from components.tracking.journal import Journal

STAGES = (
    "fetch_data",
    "normalize_data",
    "fetch_teachers",
    "train_clean_teacher",
    "train_robust_teacher",
    "distill_student",
    "evaluate_attacks",
    "report",
)
SHARED = ("seed", "compute", "parallel", "threat", "ntk")
# The section that no number depends on: the report alone reads it.
CRITERIA = "criteria"
KNOWN = {*STAGES, *SHARED, CRITERIA}
# What to lower where memory is short, unless the stage knows better.
SMALLER_DATA = "lower fetch_data.dataset.image_size, or leave the images in their files (fetch_data.dataset.streamed)"
REMEDIES = {
    "fetch_data": SMALLER_DATA,
    "normalize_data": f"{SMALLER_DATA}, or lower normalize_data.train_limit and test_limit",
    "fetch_teachers": "take a smaller teacher, or lower fetch_data.dataset.image_size",
    "evaluate_attacks": "lower normalize_data.test_limit, or free some",
    "report": "lower report.gallery_images, or free some",
}


def run(stage: str, main: Callable[[Params, Journal], None]) -> None:
    """Runs a stage as a process: a user's mistake becomes one line and exit status 2, a kill is recorded as one."""
    began = time.monotonic()
    with as_process(stage):
        end_with_dvc()
        read = Params.read()
        _require_own_run(read)
        read.require_known(KNOWN)
        params = with_threads(read, stage)
        told = {key: params.values.get(key) for key in (*SHARED, stage)}
        told |= {CRITERIA: params.values.get(CRITERIA)} if stage == "report" else {}
        inputs = inputs_of([f"components/stages/{stage}.py"], told)
        with Journal.open(stage, inputs=fingerprint(inputs)) as journal:
            own = {key: value for key, value in told.items() if key not in SHARED}
            journal.params(own, params.values, title_of(params.values))
            journal.tags({"git.commit": git_commit(), **{f"version.{k}": v for k, v in versions().items()}})
            tell_threads(read, params, journal)
            with within_memory(
                REMEDIES.get(stage, f"lower {stage}.recipe.batch_size, or fetch_data.dataset.image_size")
            ):
                main(params, journal)
            cost = _cost(time.monotonic() - began)
            write_json(WORK / "costs" / f"{stage}.json", cost)
            journal.metrics({f"cost_{name}": value for name, value in cost.items()}, step=None)
        forget(kept_threads(stage))


def kept_threads(stage: str) -> Path:
    """Where the number of threads is kept that was chosen for a stage, until it has ended."""
    return WORK / "threads" / f"{stage}.json"


def with_threads(read: Params, stage: str) -> Params:
    """The parameters with a number of threads, which is kept until the stage has ended."""
    return keep(read, settled(read, kept_threads(stage)), kept_threads(stage))


def tell_threads(read: Params, params: Params, journal: Journal) -> None:
    """Records the number of CPU threads, and says which one was chosen where it is not one for each core."""
    compute = params.values.get("compute") or {}
    journal.tags({"threads": compute.get("threads")})
    if params is not read and compute["threads"] < (cores := len(os.sched_getaffinity(0))):
        journal.note(f"compute.threads: auto is {compute['threads']} here, which is fastest now (of {cores} cores)")


def _require_own_run(params: Params) -> None:
    """Refuses parameters that were changed since the run began: its other stages have read what was there before.

    A stage of no run is refused while one is at work: `dvc repro` beside it would change the files that it reads.
    """
    recipe = os.environ.get(RECIPE)
    if not recipe:
        require_free(Path.cwd())
    elif recipe != fingerprint(params.values):
        raise InputError(f"{params.path}: changed since this run began; start it again to run what the file says now")


def _cost(seconds: float) -> dict[str, float]:
    """Wall seconds and peak memory of this process; on a GPU also its peak there."""
    cost = {"seconds": round(seconds, 3), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        cost["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return cost
