"""A made-up evaluation in the files the report reads: small, from one seed, with every part that a real one has."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from components.evaluation.document import Evaluation
from components.evaluation.verdict.findings import CheckStatus
from components.evaluation.verdict.rules import Check, Verdict
from components.foundation.params import Params
from components.foundation.storage import write_csv, write_json
from components.numerics.tensor_files import write_tensors
from components.reports.robustness.contents import Report
from components.reports.robustness.document import build
from components.stages import report
from components.statistics.documents import document_of
from components.tracking.journal import Journal

CLASSES = ["circle", "cross", "square", "star"]
ROLES = ("clean_teacher", "robust_teacher", "student")
ATTACKS = {
    "fgsm": "Fgsm(aim='true')",
    "pgd_sat": "Pgd(steps=20, step_size=1/40, start='uniform', loss='cross_entropy', restarts=1, aim='true')",
    "pgd_trades": "Pgd(steps=20, step_size=1/68, start='uniform', loss='cross_entropy', restarts=1, aim='true')",
    "cw": "Cw(steps=30, step_size=1/40, confidence=50.0)",
    "mi_fgsm": "MiFgsm(steps=10, step_size=1/40, decay=1.0)",
}
CASCADE = {
    "apgd_ce": "Apgd(steps=100, restarts=1, loss='cross_entropy', rho=0.75, targets=0)",
    "apgd_t": "Apgd(steps=100, restarts=1, loss='targeted_dlr', rho=0.75, targets=3)",
}
GRID = {
    "fgsm": "Fgsm(aim='true')",
    "fgsm_predicted": "Fgsm(aim='predicted')",
    "step_ll": "StepLl()",
    "r_fgsm": "RFgsm(aim='true')",
    "bim": "Bim(aim='true')",
    "pgd_20": ATTACKS["pgd_sat"],
}
EPSILONS = ["0", "1/51", "2/51", "1/17", "1/10", "1/5", "2/5"]
GRID_EPSILONS = ["1/20", "1/10", "1/5", "2/5"]
TRANSFER = {"pgd_sat": ATTACKS["pgd_sat"], "mi_fgsm": ATTACKS["mi_fgsm"]}
LAST_ATTACKS = ("fgsm", "pgd_sat")
# Clean accuracy, and the accuracy under the weakest attack.
SKILL = {"clean_teacher": (0.99, 0.25), "robust_teacher": (0.95, 0.80), "student": (0.985, 0.76)}


CRITERIA: dict[str, Any] = {
    "model": "student",
    "clean": None,
    "worst_case": None,
    "weakest_class": None,
    "not_worse_than": {"clean": "clean_teacher", "worst_case": "robust_teacher", "margin": None},
    "champion": True,
}


class Recorder:
    """Stands for the journal: keeps what the stage reports."""

    pipeline = "20261127-093000-ab12"

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.told: dict[str, str] = {}
        self.files: list[str] = []
        self.version: dict[str, Any] = {}

    def note(self, text: str) -> None:
        self.said = text

    def headline(self, metrics: dict[str, float]) -> None:
        self.numbers |= metrics

    def tags(self, tags: dict[str, str]) -> None:
        self.told |= tags

    def artifact(self, path: str, folder: str, on_pipeline: bool = False) -> None:
        self.files.append(str(path))

    def model(self, path: str, *rest: Any, card: str, about: str) -> None:
        self.files.append(path)
        self.version, self.card = rest[-1], card

    def dataset(self, name: str, digest: str, *_: Any, evaluated: bool) -> None:
        self.images = (name, evaluated)

    def summary(self, title: str, text: str, report: str, tags: dict[str, str]) -> None:
        self.title, self.text, self.shown = title, text, (report, tags)

    def upstream(self, hashes: dict[str, str]) -> None:
        self.hashes = hashes


def run_stage(root: Path, gallery_images: int = 3, **criteria: Any) -> Recorder:
    """Runs the stage report in `root`, with changes to the criteria, and returns what it told the journal."""
    before, journal = Path.cwd(), Recorder()
    os.chdir(root)
    try:
        params = {"report": {"gallery_images": gallery_images}, "criteria": CRITERIA | criteria}
        report.main(Params(params), cast(Journal, journal))
    finally:
        os.chdir(before)
    return journal


def document(num_images: int = 60, roles: Sequence[str] | None = None, **changes: Any) -> Report:
    """The document of the made-up evaluation with `changes` to its description."""
    roles = ROLES if roles is None else roles
    found = outcomes(num_images, torch.Generator().manual_seed(7), roles)
    return built(evaluation(num_images, roles) | changes, found)


def built(described: dict[str, Any], found: dict[str, Tensor]) -> Report:
    """The document of an evaluation that is `described` as evaluation.json would do it."""
    return build(document_of(Evaluation, described, "evaluation.json"), found, {}, {}, judged)


def judged(found: Any) -> Verdict:
    """A verdict in the form of the real one, by three rules of its own, whatever the real rules are."""
    helped = found["square_helps"]["before"] - found["square_helps"]["after"]
    checks = [
        _check("square_helps", "suspect" if helped > 2 else "passed", found["square_helps"]),
        _check("eval_mode", "broken" if found["training"]["modules"] else "passed", found["training"]),
        _check("transfer", "not_measured", {}),
    ]
    reasons = [check.rule for check in checks if check.status in ("suspect", "broken")]
    status = "broken" if "eval_mode" in reasons else "suspect" if reasons else "trusted"
    return Verdict(status=status, reasons=reasons, checks=checks)


def _check(rule: str, status: CheckStatus, measured: dict[str, Any]) -> Check:
    words = {"bound": f"bound of {rule}", "meaning": f"what {rule} means", "remedy": f"how to mend {rule}"}
    return Check(rule=rule, status=status, measured=measured, **words, required=False)


def write_evaluation(root: Path, num_images: int = 60, num_shown: int = 3, roles: Sequence[str] = ROLES) -> None:
    """Writes evaluation/, curves/ and metrics/data.json under `root`."""
    rng = torch.Generator().manual_seed(7)
    write_json(root / "evaluation/evaluation.json", evaluation(num_images, roles))
    write_tensors(root / "evaluation/outcomes.safetensors", outcomes(num_images, rng, roles))
    write_tensors(root / "evaluation/gallery.safetensors", *gallery(num_shown, rng, roles))
    write_json(root / "metrics/data.json", {"dataset": "shapes", "num_train": 240, "dropped": {"duplicates": 0}})
    for place, role in enumerate(roles):
        write_csv(root / f"curves/{role}.csv", curve(role, 12 + 4 * place))
        write_json(root / f"curves/{role}.sentinel.json", {"events": [], "looks": []})


def evaluation(num_images: int, roles: Sequence[str] = ROLES) -> dict[str, Any]:
    """The content of evaluation.json: best and last of each role; the last ones met only two attacks.

    The robust teacher's evidence is suspect: Square still helps after the gradient attacks.
    """
    models = {role: _card(role, "best", 9) for role in roles} | {
        f"{role}_last": _card(role, "last", 12) for role in roles
    }
    steps = {"clean": 1, **dict(zip(ATTACKS, (1, 20, 20, 30, 10), strict=True)), "cascade/apgd_ce": 84}
    steps |= {"cascade/apgd_t": 212, **{f"grid/{name}/{i}": 12 for name in GRID for i in range(len(GRID_EPSILONS))}}
    cost = {name: {"forward": n * num_images, "backward": (n - 1) * num_images} for name, n in steps.items()}
    return {
        "schema": "temper/evaluation/2",
        "dataset": "shapes",
        "threat": {"norm": "linf", "epsilon": "1/5"},
        "classes": CLASSES,
        "num_images": num_images,
        "models": models,
        "attacks": ATTACKS,
        "cascade": {"name": "quick", "attacks": CASCADE},
        "curve": {"epsilons": EPSILONS, "attack": ATTACKS["pgd_sat"]},
        "grid": {"epsilons": GRID_EPSILONS, "attacks": GRID},
        "transfer": {"attacks": TRANSFER},
        "evidence": {role: evidence(helped=8 if role == "robust_teacher" else 0) for role in roles},
        "adversarial": {
            "dtype": "uint8",
            "files": {role: f"evaluation/adversarial/{role}.safetensors" for role in roles},
        },
        "cost": {role: cost for role in roles},
        "training_cost": {role: {"forward": 240_000, "backward": 240_000} for role in roles},
        "precision": {
            "search": "bfloat16",
            "decision": "float32",
            "compiled": False,
            "parity": {"student": {"n": 128, "agree": 128, "only_exact": 0, "only_search": 0, "passed": True}},
        },
        **({"teachers": teachers()} if "student" in roles else {}),
        "seed": 0,
        "params": {"seed": 0, "report": {"gallery_images": 3}},
        "provenance": {"commit": "0" * 40, "device": "cpu", "torch": "2"},
    }


def teachers(n: int = 40) -> dict[str, Any]:
    """What was measured of the student's teachers: of the clean one nothing that needs an unlearnable image."""
    shares = ("clean", "worst_case", "confident_clean", "confident_adversarial", "confident_student", "tas")
    shares += ("to_student", "to_teacher")

    def measured(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": n}

    def role(names: list[str], first: float) -> dict[str, Any]:
        found = {name: measured(round(first + 0.03 * place, 6)) for place, name in enumerate(shares)}
        return {"teachers": names, "measures": found | {"entropy_clean": measured(0.5)}}

    robust = role(["robust_teacher", "big"], 0.4)
    robust["measures"]["entropy_unlearnable"] = measured(0.8)
    return {
        "num_images": n,
        "crafting": ATTACKS["pgd_sat"],
        "cascade": {"apgd_ce": CASCADE["apgd_ce"]},
        "confident": 0.5,
        "unlearnable": 9,
        "roles": {"clean_teacher": role(["clean_teacher"], 0.3), "robust_teacher": robust},
    }


def evidence(helped: int, n: int = 300) -> dict[str, Any]:
    """What the probes found on an honest model, with Square taking `helped` images after the gradient attacks."""

    def pair(first: str, then: str, right_first: int, right_then: int) -> dict[str, Any]:
        rights = {"right_first": right_first, "right_then": right_then}
        return {"first": first, "then": then, "n": n, **rights, "gained": 0, "lost": right_first - right_then}

    return {
        "images": n,
        "most_common": n // 4,
        "large_classes": 0,
        "pixels": {"low": 0.0, "high": 1.0},
        "outputs": {"finite": True, "probabilities": 0, "log_probabilities": 0},
        "training": {"modules": 0, "names": []},
        "moved_buffers": {"buffers": 0, "names": []},
        "repeats": {"forwards": 5, "changed": 0, "difference": 0.0},
        "batches": {"changed": 0, "difference": 2.5e-7},
        "zero_gradients": {"differentiable": True, "right": 290, "margin": 0, "cross_entropy": 0},
        "epsilon_zero": {"changed": 0},
        "right": {"clean": 290, "fgsm": 240, "pgd_few": 223, "pgd_half": 260, "pgd": 220, "pgd_large": 0},
        "pairs": {
            "monotone_epsilon": [pair("clean", "pgd_half", 290, 260), pair("pgd_half", "pgd", 260, 220)],
            "more_steps": [pair("pgd_few", "pgd", 223, 220)],
            "more_restarts": [pair("pgd_few", "pgd_restarts", 223, 221)],
            "more_queries": [pair("square_few", "square", 268, 251)],
            "one_step": [pair("fgsm", "pgd", 240, 220)],
            "black_box": [pair("square", "white_box", 251, 219)],
            "label_leak": [pair("clean", "fgsm", 290, 240)],
            "mask_gap_labels": [pair("fgsm_predicted", "fgsm", 241, 240)],
        },
        "budget": [{"attack": ATTACKS["pgd_sat"], "largest": 0.2, "epsilon": 0.2}],
        "rescored": {"dtype": "float32", "n": n, "claimed": 80, "fooled": 80, "undecided": 0},
        "square_helps": {"n": n, "before": 219, "after": 219 - helped},
    }


def _card(role: str, checkpoint: str, epoch: int) -> dict[str, Any]:
    suffix, width = "" if checkpoint == "best" else ".last", 2 if role == "robust_teacher" else 1
    return {
        "file": f"models/{role}{suffix}.safetensors",
        "sha256": "ab" * 32,
        "checkpoint": checkpoint,
        "of": role,
        "architecture": {"name": "small_cnn", "width": width},
        "num_parameters": 23_456 * width**2,
        "epoch": epoch,
        "upstream": {"clean_teacher": "cd" * 32} if role == "student" else {},
    }


def outcomes(num_images: int, rng: torch.Generator, roles: Sequence[str] = ROLES) -> dict[str, Tensor]:
    """Per-image outcomes whose order is a model's: an image that falls to a weak attack falls to a stronger one."""
    found: dict[str, Tensor] = {"labels": torch.arange(num_images) % len(CLASSES)}
    for role in roles:
        clean, weakest = skill(role)
        for model, loss in ((role, 0.0), (f"{role}_last", 0.04)):
            strength = torch.rand(num_images, generator=rng)

            def right(share: float, wobble: float = 0.0, strength: Tensor = strength) -> Tensor:
                noise = wobble * torch.randn(num_images, generator=rng)
                return (strength + noise < share).to(torch.uint8)

            best = model == role
            found[f"{model}/clean"] = worst = right(clean)
            for place, attack in enumerate(ATTACKS if best else LAST_ATTACKS):
                found[f"{model}/{attack}"] = right(weakest - loss - 0.03 * place, 0.03)
                worst = worst & found[f"{model}/{attack}"]
            if best:
                found |= _more(role, right, clean, weakest, roles)
                worst = worst & found[f"{model}/cascade/apgd_t"]
            found[f"{model}/worst_case"] = worst
    return found


def skill(role: str) -> tuple[float, float]:
    """Clean accuracy and that under the weakest attack; of a model with another name, something in between."""
    return SKILL.get(role, (0.9 + 0.01 * (len(role) % 7), 0.5))


def _more(role: str, right: Any, clean: float, weakest: float, roles: Sequence[str]) -> dict[str, Tensor]:
    """What only a selected model meets: the cascade, the curve, the grid, and what was made for the others."""
    found, standing = {}, right(clean)
    for place, attack in enumerate(CASCADE):
        standing = standing & right(weakest - 0.08 - 0.05 * place)
        found[f"{role}/cascade/{attack}"] = standing
    for place, share in enumerate(torch.linspace(0, 1.6, len(EPSILONS)).tolist()):
        found[f"{role}/curve/{place}"] = right(max(0.0, clean - (clean - weakest + 0.1) * share))
    for strength, attack in enumerate(GRID):
        for place in range(len(GRID_EPSILONS)):
            lost = (clean - weakest + 0.03 * strength) * 0.5 * (place + 1)
            found[f"{role}/grid/{attack}/{place}"] = right(max(0.0, clean - lost), 0.02)
    for attack in TRANSFER:
        for source in roles:
            share = weakest if source == role else (clean + weakest) / 2
            found[f"transfer/{attack}/{source}/{role}"] = right(share, 0.05)
    return found


def gallery(
    num_shown: int, rng: torch.Generator, roles: Sequence[str] = ROLES
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Random 8 x 8 images with a random change of up to 1/5 per model, and what the models answered."""
    images = torch.randint(0, 256, (num_shown, 1, 8, 8), generator=rng, dtype=torch.uint8)
    pixels = images.float() / 255
    signs = {role: torch.randint(0, 2, images.shape, generator=rng) * 2 - 1 for role in roles}
    tensors = {f"adversarial/{role}": (pixels + 0.2 * sign).clamp(0, 1) for role, sign in signs.items()}
    labels = [index % len(CLASSES) for index in range(num_shown)]
    wrong = [(label + 1) % len(CLASSES) for label in labels]
    metadata = {
        "indices": list(range(num_shown)),
        "labels": labels,
        "attack": "pgd_sat",
        "clean": {role: labels for role in roles},
        "adversarial": {role: wrong if role == "clean_teacher" else labels for role in roles},
    }
    return {"images": images, **tensors}, metadata


def curve(role: str, num_epochs: int) -> list[dict[str, Any]]:
    """One row per epoch; the kernel is probed every fourth; the student has the balances' columns too."""
    clean, weakest = skill(role)
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
            row["ntk_adversarial_distance_clean"] = 0.3 - 0.1 * done
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
        ("intrinsic_dimension", 9 - 6 * done),
        ("top10_mass", 0.4 + 0.5 * done),
        ("top20_mass", 0.6 + 0.4 * done),
        ("alignment", 0.7 * done),
        ("velocity", 0.1 * (1 - done)),
    ]
