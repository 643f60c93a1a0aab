"""A folder with a small params.yaml in which the stages run, in this process or as processes of their own."""

import contextlib
import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml

from components.foundation.storage import sha256
from components.numerics.tensor_files import read_metadata
from components.stages import STAGES, run

ROOT = Path(__file__).resolve().parents[2]
TRAINING = {
    "train_clean_teacher": "clean_teacher",
    "train_robust_teacher": "robust_teacher",
    "distill_student": "student",
}
"""The stages that train, and what they call their files."""
PATIENCE = 300
"""Seconds."""

_SMALL = {
    "compute.device": "cpu",
    "compute.threads": 1,
    "ntk.epochs": [0, 1],
    "ntk.size": 10,
    "normalize_data.train_limit": 200,
    "normalize_data.test_limit": 60,
    "distill_student.required": {"clean_accuracy": 0, "robust_accuracy": 0},
    "evaluate_attacks.batch_size": 25,
    "evaluate_attacks.attacks.pgd_sat.steps": 3,
    "evaluate_attacks.attacks.pgd_trades.steps": 3,
    "evaluate_attacks.attacks.cw.steps": 3,
    "evaluate_attacks.attacks.pgd_50.steps": 4,
    "evaluate_attacks.curve_epsilons": [0, "26/255", "51/255"],
    "evaluate_attacks.cascade": {
        "apgd_ce": {"name": "apgd", "steps": 5, "restarts": 1, "rho": 0.75, "loss": "cross_entropy", "targets": 0},
        "square": {"name": "square", "queries": 20, "p_init": 0.8, "restarts": 1, "loss": "margin"},
    },
    "evaluate_attacks.grid.epsilons": ["6/255", "13/255"],
    "evaluate_attacks.probe_images": 20,
    "evaluate_attacks.gallery_images": 4,
    "report.gallery_images": 4,
}


def small_params(**changes: Any) -> dict[str, Any]:
    """The repository's params.yaml, made to run in seconds; `changes` as in `changed`."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    small = dict(_SMALL)
    for stage in TRAINING:
        small |= {f"{stage}.recipe.{key}": value for key, value in (("epochs", 2), ("batch_size", 64))}
        small |= {f"{stage}.model.width": 0.25, f"{stage}.validation_attack.steps": 2}
    for stage in ("train_robust_teacher", "distill_student"):
        small[f"{stage}.method.attack.steps"] = 2
    return changed(values, small | changes)


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with each dotted key of `changes` set, or taken away where the new value is `...`."""
    values = copy.deepcopy(values)
    for dotted, value in changes.items():
        *above, key = dotted.split(".")
        section = values
        for name in above:
            section = section[name]
        if value is ...:
            del section[key]
        else:
            section[key] = value
    return values


def make_project(folder: Path, **changes: Any) -> Path:
    """`folder` with a small params.yaml: a place where stages run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(small_params(**changes), sort_keys=False), encoding="utf-8")
    return folder


def environment(code: Path = ROOT) -> dict[str, str]:
    """What a stage's process needs to find the code and to leave trackers alone."""
    return {**os.environ, "PYTHONPATH": str(code), "TEMPER_TRACKING": "later", "OMP_NUM_THREADS": "1"}


def start_stage(stage: str, folder: Path, code: Path = ROOT) -> subprocess.Popen[str]:
    """The stage as a process of its own, as dvc.yaml starts it, with the code of a checkout."""
    command = [sys.executable, "-m", f"components.stages.{stage}"]
    return start(command, folder, code)


def start(command: list[str], folder: Path, code: Path = ROOT) -> subprocess.Popen[str]:
    """A command in the project's folder, with its streams as text."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment(code), stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str], timeout: float = PATIENCE) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a process, waited for."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def run_here(folder: Path, *stages: str) -> None:
    """Stages in this process, as `python -m` runs them; what they set for their process is put back."""
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    deterministic = torch.get_deterministic_debug_mode()
    rng = torch.get_rng_state()
    try:
        with contextlib.chdir(folder):
            for stage in stages:
                run(stage, import_module(f"components.stages.{stage}").main)
    finally:
        signal.signal(signal.SIGTERM, handler)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(deterministic)
        torch.set_rng_state(rng)


def outputs(*stages: str) -> list[str]:
    """The declared outputs of stages (of all, if none is named), from dvc.yaml."""
    boxes = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return [path for stage in stages or STAGES for path in _declared(boxes[stage])]


def _declared(box: dict[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for entry in box.get(kind, []):
            yield from [entry] if isinstance(entry, str) else entry


def hashes(folder: Path, *stages: str) -> dict[str, str]:
    """Declared outputs that exist, files in declared folders among them, path to SHA-256."""
    return {path: sha256(folder / path) for path in files(folder, *stages)}


def files(folder: Path, *stages: str) -> list[str]:
    """The files that declared outputs are, or hold where they are folders."""
    found = [folder / path for path in outputs(*stages) if (folder / path).exists()]
    inside = [sorted(path.iterdir()) if path.is_dir() else [path] for path in found]
    return [str(path.relative_to(folder)) for paths in inside for path in paths]


def unfinished(folder: Path) -> list[Path]:
    """The checkpoints of runs that are not over."""
    return list((folder / ".temper/resume").glob("*/checkpoint.safetensors"))


def last_epoch(folder: Path) -> int:
    """The last epoch in the folder's checkpoint, -1 where there is none yet."""
    paths = unfinished(folder)
    return int(dict(read_metadata(paths[0])["history"][-1])["epoch"]) if paths else -1


def await_epoch(process: subprocess.Popen[str], folder: Path, epoch: int) -> None:
    """Waits until that epoch is in the checkpoint of the stage that the process runs."""
    # The machine may be busy, and each process imports torch.
    deadline = time.monotonic() + PATIENCE
    while last_epoch(folder) < epoch:
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline, "the stage does not come to its epochs"
        time.sleep(0.002)


def partial_files(folder: Path) -> list[Path]:
    """Files that were being written when something stopped the writer."""
    return list(folder.rglob("*.partial"))
