"""A made-up evaluation in the files the report reads: small, from one seed, with every part that a real one has."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.storage import write_csv, write_json, write_tensors

CLASSES = ["circle", "cross", "square", "star"]
ROLES = ("clean_teacher", "robust_teacher", "student")
ATTACKS = {
    "fgsm": "Fgsm(random_start=False)",
    "pgd_sat": "Pgd(steps=20, step_size=1/40, loss='cross_entropy')",
    "pgd_trades": "Pgd(steps=20, step_size=1/68, loss='cross_entropy')",
    "cw": "Cw(steps=30, step_size=1/40)",
}
EPSILONS = ["0", "1/51", "2/51", "1/17", "1/10", "1/5", "2/5"]
# Clean accuracy, and the accuracy under the weakest attack.
SKILL = {"clean_teacher": (0.99, 0.25), "robust_teacher": (0.95, 0.80), "student": (0.985, 0.76)}


def write_evaluation(root: Path, num_images: int = 60, num_shown: int = 3) -> None:
    """Writes evaluation/, curves/ and metrics/data.json under `root`."""
    rng = torch.Generator().manual_seed(7)
    write_json(root / "evaluation/evaluation.json", evaluation(num_images))
    write_tensors(root / "evaluation/outcomes.safetensors", outcomes(num_images, rng))
    write_tensors(root / "evaluation/gallery.safetensors", *gallery(num_shown, rng))
    write_json(root / "metrics/data.json", {"dataset": "shapes", "num_train": 240, "dropped": {"duplicates": 0}})
    for place, role in enumerate(ROLES):
        write_csv(root / f"curves/{role}.csv", curve(role, 12 + 4 * place))


def evaluation(num_images: int) -> dict[str, Any]:
    """The content of evaluation.json: best and last of the three roles; the last ones met only two attacks."""
    models = {role: _card(role, "best", 9) for role in ROLES} | {
        f"{role}_last": _card(role, "last", 12) for role in ROLES
    }
    passes = {
        attack: {"forward": steps * num_images, "backward": steps * num_images}
        for attack, steps in zip(ATTACKS, (1, 20, 20, 30), strict=True)
    }
    return {
        "schema": "temper/evaluation/1",
        "dataset": "shapes",
        "threat": {"norm": "linf", "epsilon": "1/5"},
        "classes": CLASSES,
        "num_images": num_images,
        "models": models,
        "attacks": ATTACKS,
        "curve": {"epsilons": EPSILONS, "attack": ATTACKS["pgd_sat"]},
        "transfer": {"attack": ATTACKS["pgd_sat"]},
        "cost": {role: passes for role in ROLES},
        "training_cost": {role: {"forward": 240_000, "backward": 240_000} for role in ROLES},
        "precision": "float32",
        "seed": 0,
        "params": {"seed": 0, "report": {"gallery_images": 3}},
        "provenance": {"commit": "0" * 40, "device": "cpu", "torch": "2"},
    }


def _card(role: str, checkpoint: str, epoch: int) -> dict[str, Any]:
    suffix = "" if checkpoint == "best" else ".last"
    return {
        "file": f"models/{role}{suffix}.safetensors",
        "sha256": "ab" * 32,
        "checkpoint": checkpoint,
        "of": role,
        "architecture": {"name": "small_cnn", "width": 16},
        "num_parameters": 23_456,
        "epoch": epoch,
        "upstream": {"clean_teacher": "cd" * 32} if role == "student" else {},
    }


def outcomes(num_images: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Per-image outcomes whose order is a model's: an image that falls to a weak attack falls to a stronger one."""
    found: dict[str, Tensor] = {"labels": torch.arange(num_images) % len(CLASSES)}
    for role, (clean, weakest) in SKILL.items():
        for model, loss in ((role, 0.0), (f"{role}_last", 0.04)):
            strength = torch.rand(num_images, generator=rng)

            def right(share: float, strength: Tensor = strength) -> Tensor:
                return (strength < share).to(torch.uint8)

            found[f"{model}/clean"] = right(clean)
            for place, attack in enumerate(ATTACKS if model == role else ("fgsm", "pgd_sat")):
                wobble = 0.03 * torch.randn(num_images, generator=rng)
                found[f"{model}/{attack}"] = right(weakest - loss - 0.03 * place, strength + wobble)
            if model == role:
                for place, share in enumerate(torch.linspace(0, 1.6, len(EPSILONS)).tolist()):
                    found[f"{model}/curve/{place}"] = right(max(0.0, clean - (clean - weakest + 0.1) * share))
                for source in ROLES:
                    found[f"transfer/{source}/{model}"] = right(weakest if source == role else (clean + weakest) / 2)
    return found


def gallery(num_shown: int, rng: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Random 8 x 8 images with a random change of up to 1/5 per model, and what the models answered."""
    images = torch.randint(0, 256, (num_shown, 1, 8, 8), generator=rng, dtype=torch.uint8)
    pixels = images.float() / 255
    signs = {role: torch.randint(0, 2, images.shape, generator=rng) * 2 - 1 for role in ROLES}
    tensors = {f"adversarial/{role}": (pixels + 0.2 * sign).clamp(0, 1) for role, sign in signs.items()}
    labels = [index % len(CLASSES) for index in range(num_shown)]
    wrong = [(label + 1) % len(CLASSES) for label in labels]
    metadata = {
        "indices": list(range(num_shown)),
        "labels": labels,
        "attack": ATTACKS["pgd_sat"],
        "clean": {role: labels for role in ROLES},
        "adversarial": {"clean_teacher": wrong, "robust_teacher": labels, "student": labels},
    }
    return {"images": images, **tensors}, metadata


def curve(role: str, num_epochs: int) -> list[dict[str, Any]]:
    """One row per epoch; the kernel is probed every fourth; the student has the balances' columns too."""
    clean, weakest = SKILL[role]
    rows = []
    for epoch in range(1, num_epochs + 1):
        done = 1 - math.exp(-4 * epoch / num_epochs)
        row: dict[str, Any] = {"epoch": epoch, "lr": 0.1 * (1 + math.cos(math.pi * epoch / num_epochs)) / 2}
        row |= {"train_loss": 2.3 - 1.6 * done, "clean_accuracy": clean * done, "robust_accuracy": weakest * done}
        if role == "student":
            row |= _balance(done)
        if epoch % 4 == 0:
            row |= {
                f"ntk_{kind}_{name}": value
                for kind, scale in (("clean", 1.0), ("adversarial", 0.8))
                for name, value in _kernel(done * scale)
            }
        rows.append(row)
    return rows


def _balance(done: float) -> dict[str, float]:
    robust = {
        "temperature": 1 + done,
        "entropy": 1.8 - 0.4 * done,
        "weight": 0.5 + 0.2 * done,
        "relative_loss": 1 - 0.6 * done,
    }
    clean = {
        "temperature": 1 + 2 * done,
        "entropy": 0.4 + 0.9 * done,
        "weight": 0.5 - 0.2 * done,
        "relative_loss": 1 - 0.8 * done,
    }
    return {
        f"{part}_{side}": value
        for side, parts in (("robust", robust), ("clean", clean))
        for part, value in parts.items()
    }


def _kernel(done: float) -> list[tuple[str, float]]:
    parts = {"distance_previous": 0.4 * (1 - done), "distance_first": 0.6 * done, "effective_rank": 40 - 25 * done}
    return [
        *parts.items(),
        ("participation_ratio", 20 - 12 * done),
        ("top10_mass", 0.4 + 0.5 * done),
        ("alignment", 0.7 * done),
    ]
