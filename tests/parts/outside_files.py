"""Small models and images as a team might bring them, and the evaluation of them as a process."""

import contextlib
import copy
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from components.commands.evaluate import main as evaluate
from components.commands.evaluate_options import EvaluateOptions
from components.data.normalization import Normalization
from components.evaluation.outside.models import Foreign, Outside, OutsideImages, load_outside, local_file
from components.models import MODELS
from components.models.parts.batch_norm import BatchNorm
from components.models.parts.model_file import ModelCard, save_model
from components.numerics.tensor_files import write_tensors
from temper.cli import main as temper
from tests.parts.pipeline_files import start

CLASSES = tuple("0123456789")
NORMALIZATION = Normalization(method="standardize", offset=(0.3,), scale=(0.4,))
ARCHITECTURE = {"name": "small_cnn", "width": 0.25, "batch_norm": {"estimator": "running", "momentum": 0.1}}
PGD = {"name": "pgd", "steps": 4, "step_size": "13/255", "start": "uniform", "loss": "cross_entropy", "restarts": 1}
APGD = {"name": "apgd", "steps": 8, "restarts": 1, "loss": "cross_entropy", "rho": 0.75, "targets": 0}
SECTION = {
    "batch_size": 20,
    "search": {"precision": "float32", "compiled": False},
    "attacks": {"fgsm": {"name": "fgsm"}, "pgd": PGD},
    "cascade": {
        "apgd": APGD,
        "square": {"name": "square", "queries": 20, "p_init": 0.8, "restarts": 1, "loss": "margin"},
    },
    "cascade_epsilons": ["13/255"],
    "curve_attack": "pgd",
    "curve_epsilons": [0, "51/255", "102/255"],
    "grid": {"epsilons": ["26/255"], "attacks": {"fgsm": {"name": "fgsm"}, "bim": {"name": "bim"}}},
    "transfer_attacks": ["fgsm"],
    "last_epoch_attacks": [],
    "probe_images": 30,
    "gallery_images": 4,
    "adversarial": "uint8",
}
PARAMS = {
    "seed": 0,
    "compute": {"device": "cpu", "threads": 1, "deterministic": True},
    "threat": {"norm": "linf", "epsilon": "26/255"},
    "evaluate_attacks": SECTION,
}


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All images of the digits, uint8 [1797, 1, 8, 8], and labels."""
    # Here, since the file must be importable on a GPU machine.
    images, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    levels = torch.from_numpy(images).view(-1, 1, 8, 8)
    return (levels * 255 / 16).round().to(torch.uint8), torch.from_numpy(labels).long()


@cache
def network(seed: int = 0) -> nn.Sequential:
    """A small network that learned the digits for a second; the last 397 images it never saw."""
    return copy.deepcopy(_trained(seed))


# Once: where memory lies may decide how a convolution sums, and training twice gives two networks.
@cache
def _trained(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = MODELS["small_cnn"](width=0.25, batch_norm=BatchNorm(estimator="running", momentum=0.1))
        model = built.build(len(CLASSES), (1, 8, 8), NORMALIZATION)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
        images, labels = (part[:1400] for part in digits())
        for _ in range(3):
            for batch in torch.randperm(len(images)).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[batch].float() / 255), labels[batch]).backward()
                optimizer.step()
        return model.eval().requires_grad_(False)


def save(path: Path, seed: int = 0) -> Path:
    """That network as a model file."""
    card = ModelCard(
        architecture=ARCHITECTURE,
        classes=CLASSES,
        image_shape=(1, 8, 8),
        normalization=NORMALIZATION,
        stage="test",
        epoch=3,
        upstream={},
    )
    save_model(path, network(seed).state_dict(), card)
    return path


def write_images(path: Path, count: int = 60, **more: Tensor) -> Path:
    """Images that the network never saw, in a file of images and labels."""
    images, labels = (part[1400 : 1400 + count] for part in digits())
    write_tensors(path, {"images": images, "labels": labels, **more}, {"classes": CLASSES})
    return path


def bomb(folder: Path) -> bytes:
    """A pickle that leaves a file where it is read."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(folder / "exploded"),))

    return pickle.dumps(Bomb())


def pixels(count: int = 20) -> Tensor:
    """The first images as float32 in [0, 1]."""
    return digits()[0][:count].float() / 255


def same(model: nn.Module, other: nn.Module, images: Tensor) -> bool:
    """Whether two models give the same logits, up to the rounding of float32 where logits are near 20."""
    with torch.no_grad():
        return torch.allclose(model(images), other(images), atol=1e-4)


def make_case(folder: Path, count: int = 60, **section: Any) -> Path:
    """A folder with two models, images and a params file for a run of a few seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "one.safetensors", 0)
    save(folder / "two.safetensors", 1)
    write_images(folder / "images.safetensors", count)
    (folder / "small.yaml").write_text(yaml.safe_dump(PARAMS | {"evaluate_attacks": SECTION | section}))
    return folder


def arguments(*more: str, out: str = "out", models: tuple[str, ...] = ("one", "two")) -> list[str]:
    """The command line of an evaluation in such a folder."""
    given = [option for name in models for option in ("--model", f"{name}={name}.safetensors")]
    return [*given, "--data", "images.safetensors", "--params", "small.yaml", "--out", out, *more]


def loaded(name: str, reference: str, images: OutsideImages, foreign: Foreign, device: torch.device) -> Outside:
    """The model that a reference means, as an evaluation loads it."""
    with tempfile.TemporaryDirectory() as folder:
        return load_outside(name, reference, local_file(reference, Path(folder)), images, foreign, device)


def options_of(arguments: Sequence[str]) -> EvaluateOptions:
    """What `temper evaluate` makes of a command line."""
    told: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.commands.evaluate.run", told.update)
        assert temper(["evaluate", *arguments]) == 0
    return EvaluateOptions(**told)


def evaluate_here(folder: Path, *more: str) -> None:
    """An evaluation in such a folder, in this process; what it sets for its process is put back."""
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    try:
        with contextlib.chdir(folder):
            evaluate(options_of(arguments(*more)))
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(deterministic)


def start_evaluation(folder: Path, *more: str, **changes: Any) -> subprocess.Popen[str]:
    """An evaluation in such a folder as a process of its own."""
    return start([sys.executable, "-m", "temper", "evaluate", *arguments(*more, **changes)], folder)
