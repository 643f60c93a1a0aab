"""Small evaluations whose outcomes are written down image by image, and records of runs that made them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.data.normalization import Normalization
from components.foundation.params import member
from components.foundation.storage import sha256, write_json
from components.models import MODELS
from components.models.parts.model_file import ModelCard, save_model
from components.numerics.tensor_files import write_tensors
from components.tracking.journal import Journal
from tests.parts.evaluation_files import CLASSES, evidence
from tests.parts.evaluation_files import evaluation as made_up_evaluation

NUM_IMAGES = 100
STANDARD = {"rho": 0.75, "targets": 0, "wanted_targets": 9}
ATTACKS = {"fgsm": "Fgsm()", "pgd": "Pgd(steps=20)"}
CASCADE = {"name": "quick", "attacks": {"apgd_ce": "Apgd(loss='ce')", "apgd_t": "Apgd(loss='dlr')"}}
DIGEST = "d" * 64
# What the evaluations here ask, as the report tags a version with it.
QUESTION = {"norm": "linf", "epsilon": "8/255", "test.sha256": DIGEST, "num_images": str(NUM_IMAGES)}


def wrong(*images: Iterable[int]) -> Tensor:
    """Outcomes that are right but for some images, uint8 [100]."""
    found = torch.ones(NUM_IMAGES, dtype=torch.uint8)
    for some in images:
        found[list(some)] = 0
    return found


def outcomes(lost: int, model: str = "student") -> dict[str, Tensor]:
    """A model that is wrong on images 0 and 1, and falls to attacks on 2 up to `lost`, the last five to APGD-T only."""
    clean, most = range(2), range(lost - 5)
    return {
        f"{model}/clean": wrong(clean),
        f"{model}/fgsm": wrong(clean, range(2, lost // 2)),
        f"{model}/pgd": wrong(most),
        f"{model}/cascade/apgd_ce": wrong(most),
        f"{model}/cascade/apgd_t": wrong(range(lost)),
    }


def write_evaluation(folder: Path, found: dict[str, Tensor], digest: str = "a" * 64, **changes: Any) -> Path:
    """An evaluation of the models in `found`, with `changes` to evaluation.json."""
    names = list(dict.fromkeys(key.split("/")[0] for key in found))
    card = {"sha256": digest, "checkpoint": "best", "architecture": {"name": "small_cnn"}, "num_parameters": 1234}
    evaluation = made_up_evaluation(NUM_IMAGES, []) | {
        "threat": {"norm": "linf", "epsilon": "8/255"},
        "models": {
            name: {**card, "file": f"models/{name}.safetensors", "of": name, "epoch": 9, "upstream": {}}
            for name in names
        },
        "attacks": ATTACKS,
        "cascade": CASCADE,
        "evidence": {name: honest() for name in names},
        "provenance": {"data.sha256": DIGEST, "test.sha256": DIGEST},
    }
    write_json(folder / "evaluation.json", evaluation | changes)
    labels = {"labels": torch.arange(NUM_IMAGES) % len(CLASSES)}
    write_tensors(folder / "outcomes.safetensors", labels | found)
    return folder


def honest(**changes: Any) -> dict[str, Any]:
    """Evidence against which no rule of the verdict speaks, but for `changes`."""
    constant = {"first": "always answering 'cross'", "then": "the model", "n": 300, "gained": 215, "lost": 0}
    claim = {"first": "the probe's attacks", "then": "the reported worst case", "n": 300, "gained": 0, "lost": 4}
    return {
        **evidence(helped=0),
        "unanswered": 0,
        "constant": {**constant, "right_first": 75, "right_then": 290},
        "claim": {**claim, "right_first": 219, "right_then": 215},
        "reach": [{"attack": "pgd", "reach": 1.0, "wanted": 0.4}],
        "apgd": [{"attack": "cascade/apgd_ce", "loss": "cross_entropy", "steps": 100, **STANDARD}],
        **changes,
    }


def write_model(path: Path, seed: int) -> str:
    """A model file and, beside it, example.npy; returns the file's hash."""
    architecture = {"name": "small_cnn", "width": "1/4", "batch_norm": {"estimator": "running", "momentum": 0.1}}
    normalization = Normalization(method="standardize", offset=(0.3,), scale=(0.4,))
    torch.manual_seed(seed)
    model = member(MODELS, architecture, "test").build(4, (1, 8, 8), normalization)
    card = ModelCard(
        architecture=architecture,
        classes=tuple(CLASSES),
        image_shape=(1, 8, 8),
        normalization=normalization,
        stage="distill_student",
        epoch=1,
        upstream={},
    )
    save_model(path, model.state_dict(), card)
    np.save(path.with_name("example.npy"), np.zeros((2, 1, 8, 8), dtype=np.float32))
    return sha256(path)


def record_evaluation(folder: Path, digest: str) -> None:
    """The journal of an evaluation stage, in the pipeline run that is open."""
    with Journal.open("evaluate_attacks") as journal:
        journal.upstream({"normalized": DIGEST, "student": digest})
        for name in ("evaluation.json", "outcomes.safetensors"):
            journal.artifact(folder / name)


def record_report(model: Path, digest: str, verdict: str, **tags: str) -> None:
    """The journal of the report stage, which registers the student and closes the pipeline run."""
    with Journal.open("report") as journal:
        tags = {**QUESTION, "sha256": digest, **({"verdict": verdict} if verdict else {}), **tags}
        journal.model(model, "temper-student", (1, 8, 8), 4, model.with_name("example.npy"), tags)
        journal.upstream({"student": digest})
