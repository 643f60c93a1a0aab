"""The usage examples in the docstrings of each family's entry point run, with what they take for granted."""

import copy
import doctest
from importlib import import_module
from typing import Any

import pytest
import torch

from components.attacks.pgd import Pgd
from components.data.batch import Batch
from components.distillation.akd import Akd
from components.distillation.parts.inner_attack import InnerAttack
from components.foundation.params import Ratio
from components.methods.pgd_at import PgdAt
from components.models.parts.batch_norm import BatchNorm
from components.models.small_cnn import SmallCnn
from temper.arrays import threat
from tests.parts.outside_files import digits, network

ENTRIES = (
    "attacks.fgsm",
    "datasets.digits",
    "distillation.kd_swa",
    "methods.pgd_at",
    "models.small_cnn",
    "schedules.cosine",
    "threats.parts.threat",
    "wrappers.awp",
    "wrappers.igdm",
)


def granted() -> dict[str, Any]:
    """What an example may use without making it: a model, a teacher, a batch, an attack, a method, a threat model."""
    images, labels = (part[:16] for part in digits())
    pixels = images.float() / 255
    attack = Pgd(steps=2, step_size=Ratio(1, 20), start="uniform", loss="cross_entropy", restarts=1)
    student_attack = InnerAttack(steps=2, step_size=Ratio(1, 20), start="uniform", loss="cross_entropy")
    model = network(0).train().requires_grad_(True)
    return {
        "images": pixels,
        "labels": labels,
        "batch": Batch.of(pixels, labels),
        "model": model,
        "teacher": copy.deepcopy(model).eval().requires_grad_(False),
        "attack": attack,
        "student_attack": student_attack,
        "distillation": Akd(attack=student_attack, teacher_weight=0.6).build(copy.deepcopy(model)),
        "method": PgdAt(attack=attack, label_smoothing=0).build(),
        "threat": threat("linf:1/10"),
        "rng": torch.Generator().manual_seed(0),
        "Ratio": Ratio,
        "BatchNorm": BatchNorm,
        "SmallCnn": SmallCnn,
    }


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_examples_of_a_family(entry: str) -> None:
    done = doctest.testmod(import_module(f"components.{entry}"), extraglobs=granted())
    assert done.failed == 0 and done.attempted >= 2 - (entry == "datasets.digits")
