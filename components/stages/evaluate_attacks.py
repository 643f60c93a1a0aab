"""Stage evaluate_attacks: what every attack does to every test image, for both teachers and the student."""

import shutil
from pathlib import Path

import torch

from components.data.splits import Splits, digest, read_splits
from components.evaluation.engine import Candidate, Data, Workplace, evaluate
from components.evaluation.one_attack import TestSet
from components.evaluation.suite import Suite
from components.foundation.errors import InputError
from components.foundation.params import Params
from components.foundation.process import WORK
from components.foundation.provenance import code_hash, fingerprint, versions
from components.foundation.storage import read_json, sha256
from components.models.parts.model_file import load_model
from components.stages import run
from components.stages.evidence import evidence_on
from components.stages.tasks import read_suite
from components.tracking.journal import Journal

STAGE = "evaluate_attacks"
DATA = Path("data/normalized.safetensors")
RESULTS = Path("evaluation")
# The sections that dvc.yaml declares: others may change without a new evaluation, so none of them is written to it.
READ = ("seed", "compute", "threat", STAGE)
ROLES = ("clean_teacher", "robust_teacher", "student")
# Any number of classes will do to check a section whose data is not there yet.
SOME_CLASSES = 10


def read(params: Params, num_classes: int = SOME_CLASSES) -> Suite:
    """The stage's suite, all checked."""
    return read_suite(params, STAGE, num_classes)


def main(params: Params, journal: Journal) -> None:
    """Writes the files of evaluation/ (formats: docs/evaluation.md)."""
    splits = read_splits(DATA)
    suite = read(params, len(splits.classes))
    device = suite.compute.prepare()
    candidates = load_candidates(splits, device)
    selected = {name: c for name, c in candidates.items() if c.selected}
    told = {key: params.get(key) for key in READ}
    hashes = {name: c.facts["sha256"] for name, c in candidates.items()}
    unfinished = WORK / "evaluation" / fingerprint(**told, data=sha256(DATA), models=hashes)
    provenance = {"data.sha256": sha256(DATA), "code.sha256": code_hash(), "device": device.type, **versions()}
    training_cost = {role: read_json(f"metrics/{role}.json")["passes"] for role in ROLES}
    extra = {"training_cost": training_cost, "params": told, "provenance": provenance}
    data = load_data(splits, suite.section.batch_size, device)
    evaluate(candidates, data, suite, Workplace(RESULTS, unfinished), evidence_on, extra, journal.note)
    shutil.rmtree(unfinished)
    journal.upstream({"normalized": sha256(DATA)} | {name: c.facts["sha256"] for name, c in selected.items()})
    for name in ("evaluation.json", "outcomes.safetensors"):
        journal.artifact(RESULTS / name)


def load_data(splits: Splits, batch_size: int, device: torch.device) -> Data:
    """The test split, and the validation split to check a fast search on."""
    test, held_out = (
        TestSet(part.images.to(device), part.labels.to(device), batch_size) for part in (splits.test, splits.validation)
    )
    return Data(splits.dataset, digest({"test": splits.test}), splits.classes, test, held_out)


def load_candidates(splits: Splits, device: torch.device) -> dict[str, Candidate]:
    """Best and last epoch of every role, named `student`, `student_last`, … Error: made for other images."""
    candidates = {}
    for role in ROLES:
        for checkpoint, suffix, mark in (("best", "", ""), ("last", ".last", "_last")):
            path = Path(f"models/{role}{suffix}.safetensors")
            model, card = load_model(path, device)
            if (card.image_shape, card.classes) != (splits.image_shape, splits.classes):
                raise InputError(
                    f"{path}: takes {card.image_shape} images, {DATA} has {splits.image_shape}, or classes differ"
                )
            model = model.requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            facts = {
                "file": str(path),
                "sha256": sha256(path),
                "checkpoint": checkpoint,
                "of": role,
                "architecture": card.architecture,
                "num_parameters": sum(p.numel() for p in model.parameters()),
                "epoch": card.epoch,
                "upstream": card.upstream,
            }
            candidates[role + mark] = Candidate(model, facts)
    return candidates


if __name__ == "__main__":
    run(STAGE, main)
