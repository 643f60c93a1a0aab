"""What a study runs: the arms of studies/NAME/study.yaml, as jobs over the stages of dvc.yaml. Imports no Prefect.

An arm is a preset with some keys changed, and a seed. Its jobs are the stages of dvc.yaml up to the model that the
study measures, and one evaluation of that model, best and last checkpoint. A job is known by a key: all that it is told
and the keys of the jobs whose files it reads. Jobs of one key are one job, so arms share what they have in common, and
seeds share the raw images.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from components.foundation.errors import InputError
from components.foundation.params import flat, read_yaml
from components.foundation.provenance import fingerprint
from components.foundation.recipes import ONLY, changed
from components.foundation.storage import reading
from pipelines.studies.file import ROLES, STUDY, Params, Study, arm_params, read_study

EVALUATE, TRANSFER = "evaluate", "transfer"
# dvc.yaml has no box for models from outside; what its own evaluation executes, and how models come in.
EVALUATION_BOX = "evaluate_attacks"
OUTSIDE = ("evaluate", "evaluate_options")
CHECKPOINTS = {"best": "", "last": ".last"}


class Read(NamedTuple):
    """A file that a job reads: what it is called there, which job writes it, what it is called there."""

    path: str
    job: "Job"
    source: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One process of a study, in a folder of its own."""

    stage: str
    command: tuple[str, ...]
    params: Params
    told: Params
    """The part of `params` that the stage reads."""
    reads: tuple[Read, ...]
    writes: tuple[str, ...]
    code: tuple[str, ...]
    """The files of components/ that it executes, as dvc.yaml lists them."""
    labels: Mapping[str, str]
    """The arm and the seed that asked for it first."""

    @cached_property
    def key(self) -> str:
        """Hash of what the job is told, and of the jobs before it."""
        upstream = [(read.path, read.source, read.job.key) for read in self.reads]
        # Without this machine's Python.
        return fingerprint({"command": self.command[1:], "told": self.told, "upstream": upstream})

    @property
    def folder(self) -> str:
        return f"{self.stage}-{self.key}"


class ArmRun(NamedTuple):
    """One arm with one seed, and the two jobs that its results come from."""

    name: str
    arm: str
    variant: str
    role: str
    seed: int
    trained: Job
    evaluated: Job


class JobPlan(NamedTuple):
    """All of a study at one scale; `jobs` has each job once, after those that it reads from."""

    study: Study
    folder: Path
    scale: str
    runs: tuple[ArmRun, ...]
    transfers: Mapping[int, Job]
    jobs: tuple[Job, ...]


class Box(NamedTuple):
    """A stage as dvc.yaml has it: its sections of params.yaml, its files, and its code with ${keys} of params.yaml."""

    sections: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    code: tuple[str, ...]


def plan(
    root: Path,
    folder: Path,
    scale: str,
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    delta: Mapping[str, Any] = MappingProxyType({}),
) -> JobPlan:
    """The jobs of a study.

    Args:
        root: the project's root, with dvc.yaml and presets/.
        folder: the study's, with study.yaml.
        scale: one of the study's scales.
        seeds, arms: only these; none means all.
        delta: of every arm, on top of what the study says.
    """
    study = read_study(folder)
    names = study.names()
    for what, given, known in (("scale", [scale], study.scales), ("arm", arms, names)):
        for one in given:
            if one not in known:
                raise InputError(f"{folder / STUDY}: no {what} {one!r} (allowed: {', '.join(known)})")
    boxes, known_jobs = read_boxes(root), {}
    runs = []
    for seed in seeds or study.seeds:
        for name in arms or names:
            arm, variant = names[name]
            params = changed(arm_params(root, folder, study, scale, name), delta, name) | {"seed": seed}
            labels = {"study": folder.name, "scale": scale, "arm": name, "seed": str(seed)}
            role = study.roles.get(arm, study.role)
            trained = _trained(boxes, role, params, labels, known_jobs)
            evaluated = _evaluation(boxes, params, labels, {"": trained})
            kept = known_jobs.setdefault(evaluated.key, evaluated)
            runs.append(ArmRun(name, arm, variant, role, seed, trained, kept))
    transfers = {} if study.transfer is None else _transfers(boxes, runs, study.transfer)
    known_jobs |= {job.key: job for job in transfers.values()}
    return JobPlan(study, folder, scale, tuple(runs), transfers, tuple(known_jobs.values()))


def read_boxes(root: Path) -> dict[str, Box]:
    """The stages of dvc.yaml, which owns the graph: there is no second list of what a stage reads and writes."""
    path = root / "dvc.yaml"
    told = read_yaml(path)
    with reading(path, "not the stages of this project"):
        return {name: _box(box) for name, box in told["stages"].items()}


def _box(box: Mapping[str, Any]) -> Box:
    written = [entry for kind in ("outs", "metrics", "plots") for entry in box.get(kind, [])]
    return Box(
        sections=tuple(box["params"]),
        # Images of a user's own are read where they are, as sections of params.yaml say.
        reads=tuple(dep for dep in box["deps"] if not dep.startswith(("components/", "${"))),
        writes=tuple(entry if isinstance(entry, str) else next(iter(entry)) for entry in written),
        code=tuple(dep for dep in box["deps"] if dep.startswith("components/")),
    )


def _trained(
    boxes: Mapping[str, Box], role: str, params: Params, labels: Mapping[str, str], known: dict[str, Job]
) -> Job:
    """The job that trains the role's model; it and those before it are in `known` afterwards, by their keys."""
    writers = {path: stage for stage, box in boxes.items() for path in box.writes}

    def job_of(stage: str) -> Job:
        box = boxes[stage]
        reads = tuple(Read(path, job_of(writers[path]), path) for path in box.reads)
        made = Job(
            stage=stage,
            command=(sys.executable, "-m", f"components.stages.{stage}"),
            params=params,
            told={section: params.get(*section.split(".")) for section in box.sections},
            reads=reads,
            writes=box.writes,
            code=tuple(_resolved(path, params) for path in box.code),
            labels=labels,
        )
        return known.setdefault(made.key, made)

    return job_of(writers[f"models/{role}.safetensors"])


def _evaluation(
    boxes: Mapping[str, Box],
    params: Params,
    labels: Mapping[str, str],
    trained: Mapping[str, Job],
    checkpoints: Sequence[str] = tuple(CHECKPOINTS),
    stage: str = EVALUATE,
) -> Job:
    """The evaluation of some checkpoints of the jobs `trained`, by their names in it."""
    reads, models = [], []
    for name, job in trained.items():
        role = _role(job)
        for checkpoint in checkpoints:
            path = f"models/{name or role}{CHECKPOINTS[checkpoint]}.safetensors"
            reads.append(Read(path, job, f"models/{role}{CHECKPOINTS[checkpoint]}.safetensors"))
            models += ["--model", f"{name or checkpoint}={path}"]
    data = next(read for read in next(iter(trained.values())).reads if read.path == "data/normalized.safetensors")
    if stage == EVALUATE:
        # Best and last are no two models that one wants to attack through each other.
        params = changed(params, {f"{EVALUATION_BOX}.transfer_attacks": []}, stage)
    box = boxes[EVALUATION_BOX]
    options = ["--data", data.path, "--params", "params.yaml", "--out", "evaluation", "--track"]
    return Job(
        stage=stage,
        command=(sys.executable, "-m", "temper", "evaluate", *models, *options),
        params=params,
        told={section: params.get(*section.split(".")) for section in box.sections},
        reads=(data, *reads),
        writes=tuple(f"evaluation/{name}" for name in ("evaluation.json", "outcomes.safetensors", "robustness.json")),
        code=(*(_resolved(path, params) for path in box.code), *(f"components/commands/{name}.py" for name in OUTSIDE)),
        labels=labels,
    )


def _role(job: Job) -> str:
    """The model that a job trains, by the file that it writes."""
    return next(role for role in ROLES if f"models/{role}.safetensors" in job.writes)


def _transfers(boxes: Mapping[str, Box], runs: Sequence[ArmRun], checkpoint: str) -> dict[int, Job]:
    """Per seed, one evaluation in which every arm's model meets what was made for the others, and nothing more."""
    jobs = {}
    for seed in dict.fromkeys(run.seed for run in runs):
        trained = {run.name: run.trained for run in runs if run.seed == seed}
        first = next(run for run in runs if run.seed == seed)
        section = first.trained.params[EVALUATION_BOX]
        wanted = {*section["transfer_attacks"], section["curve_attack"]}
        delta = {
            "attacks": {ONLY: {name: attack for name, attack in section["attacks"].items() if name in wanted}},
            "cascade": "none",
            "cascade_epsilons": [],
            "curve_epsilons": [],
            "grid": {"epsilons": [], "attacks": {}},
            "last_epoch_attacks": [],
        }
        params = changed(first.trained.params, {EVALUATION_BOX: delta}, TRANSFER)
        labels = dict(first.trained.labels) | {"arm": TRANSFER}
        jobs[seed] = _evaluation(boxes, params, labels, trained, (checkpoint,), TRANSFER)
    return jobs


def _resolved(path: str, params: Params) -> str:
    """A path of dvc.yaml with the members' names that params.yaml gives in place of ${keys}."""
    values = flat(params)
    return re.sub(r"\$\{([^}]+)\}", lambda key: str(values.get(key[1])), path)
