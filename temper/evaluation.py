"""`temper.attack` and `temper.evaluate`: models and images in memory, through the engine of the pipeline."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.attacks import ATTACKS
from components.attacks.parts.attack import Attack
from components.commands.evaluate_options import default_section
from components.data.splits import LabelledImages, digest
from components.evaluation.engine import Candidate, Data, Folders, attack_code
from components.evaluation.engine import evaluate as run_engine
from components.evaluation.one_attack import TestSet, run_attack
from components.evaluation.results import read_evaluation
from components.evaluation.suite import EvaluationSection, Suite
from components.evaluation.verdict.rules import judge
from components.foundation.errors import InputError
from components.foundation.params import member, typed
from components.foundation.provenance import fingerprint, versions
from components.numerics.compute import Compute
from components.numerics.tensor_files import tensor_bytes
from components.reports.robustness.contents import Report
from components.reports.robustness.document import build
from components.reports.robustness.table import text_table
from components.stages.evidence import evidence_on
from components.stages.tasks import suite_of
from components.statistics.outcomes import Rate, share
from components.threats.parts.threat import Threat
from temper.arrays import (
    Array,
    device_of,
    images_of,
    labels_of,
    looked_at,
    num_classes_of,
    require,
    require_all,
    require_seed,
    require_whole,
)
from temper.arrays import threat as as_threat
from temper.defaults import attack_fields, budget_attacks, filled

NAME = "model"
AttackLike = str | Mapping[str, Any] | Attack


@dataclass(frozen=True)
class Evaluation:
    """What attacks did to a model, and how far to believe it; printed, a table with the verdict.

    `clean` and `worst_case` are rates with n and a 95 % interval: `rate.value`, `rate.low`, `rate.high`, `rate.n`. The
    worst case counts an image as right only if no attack fooled the model on it. `attacks` has the rate under each
    attack on every image, and `cascade` what stands after all attacks that run one after another. `verdict` is
    `trusted`, `suspect` or `broken`; `reasons` says why it is not trusted, a line each. `outcomes` has per attack uint8
    [N], 1 where the model was right. `document` is the whole report (docs/report-schema.md).
    """

    threat: Threat
    clean: Rate
    worst_case: Rate
    attacks: Mapping[str, Rate]
    verdict: str
    reasons: tuple[str, ...]
    outcomes: Mapping[str, Tensor]
    document: Report

    def __str__(self) -> str:
        return text_table(self.document)


def attack(
    model: nn.Module,
    images: Array,
    labels: Array,
    threat: Threat | str,
    attack: AttackLike = "pgd",
    *,
    batch_size: int = 500,
    seed: int = 0,
) -> Tensor:
    """Adversarial images [N, C, H, W], float32 on the model's device, inside the ball of `threat` and in [0, 1].

    Of no images, [0, C, H, W], none.

    >>> import temper, torch
    >>> model, images = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), torch.rand(3, 1, 2, 2)
    >>> float((temper.attack(model, images, torch.zeros(3).long(), "linf:1/10") - images).abs().max()) <= 0.1 + 1e-6
    True

    Args:
        model: takes pixels in [0, 1], normalises them itself, returns logits [N, K].
        images: [N, C, H, W], uint8 or floats in [0, 1].
        labels: [N], classes from 0.
        threat: a threat model, or text such as `linf:8/255`.
        attack: a name, a mapping with a name and some fields, or an attack.
        batch_size: images that go through the model at a time.
        seed: of random starts.

    Errors: `temper.InputError`, one line, where an argument is not so.
    """
    require_all(model)
    require_whole(1, batch_size=batch_size)
    require_seed(seed)
    ball, device = as_threat(threat), device_of(model)
    pixels = images_of(images, device, least=0)
    classes = labels_of(labels, len(pixels), device)
    built = _attack(attack, ball, "attack")
    if not len(pixels):
        return pixels.float()
    with looked_at(model):
        num_classes_of(model, pixels, classes)
        return run_attack(model, TestSet(pixels, classes, batch_size), built, ball, seed).images_adv


def evaluate(
    model: nn.Module,
    images: Array,
    labels: Array,
    threat: Threat | str,
    *,
    budget: str = "standard",
    attacks: Mapping[str, AttackLike] | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 500,
    seed: int = 0,
    folder: Path | str | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """The table and the verdict of a model under attack. The model stays as it is.

    >>> import temper, torch
    >>> model, images = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), torch.rand(20, 1, 2, 2)
    >>> temper.evaluate(model, images, torch.arange(20) % 2, "linf:1/10", budget="quick").worst_case.n
    20

    Args:
        model: takes pixels in [0, 1], normalises them itself, returns logits [N, K].
        images: [N, C, H, W], uint8 or floats in [0, 1], on which the model was not trained.
        labels: [N], classes from 0.
        threat: a threat model, or text such as `linf:8/255`.
        budget: `quick`, `standard` or `full`, see `temper.BUDGETS`.
        attacks: attacks of your own beside those of the budget, by the names they get.
        classes: their names, for the report.
        batch_size: images that go through the model at a time.
        seed: of random starts.
        folder: where the journal and the files of docs/evaluation.md stay, so that a stopped evaluation continues;
            none keeps nothing.
        note: gets a line now and then.

    Errors: `temper.InputError`, one line, where an argument is not so.
    """
    require_all(model, folder, note)
    require_whole(1, batch_size=batch_size)
    require_seed(seed)
    require("attacks", attacks, (Mapping, type(None)), "a mapping of names to attacks")
    ball, device = as_threat(threat), device_of(model)
    pixels = images_of(images, device)
    targets = labels_of(labels, len(pixels), device)
    with looked_at(model), tempfile.TemporaryDirectory() as scratch:
        num_classes = num_classes_of(model, pixels, targets)
        suite = _suite(ball, budget, attacks or {}, num_classes, batch_size, seed, pixels.dtype)
        names = _names(classes, num_classes)
        whole = digest({"test": LabelledImages(pixels.cpu(), targets.cpu())})
        data = Data("images", whole, names, TestSet(pixels, targets, batch_size), None)
        place = Path(folder or scratch)
        facts = _facts(model)
        code = fingerprint(attack_code({NAME: Candidate(model, facts)}, suite))
        provenance = {"data.sha256": whole, "code.sha256": code, "device": device.type, **versions()}
        extra = {"training_cost": {}, "params": {}, "provenance": provenance}
        run_engine({NAME: Candidate(model, facts)}, data, suite, Folders(place, place), evidence_on, extra, note)
        return _read(place, ball, data)


def _names(classes: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """The names of the classes, numbers where none are given. Error: no texts, or not as many as the model has."""
    if classes is None:
        return tuple(map(str, range(num_classes)))
    names = tuple(classes) if isinstance(classes, Iterable) and not isinstance(classes, str) else ()
    if len(names) != num_classes or not all(isinstance(name, str) for name in names):
        raise InputError(f"classes: got {classes!r}, want {num_classes} names, one for each logit")
    return names


def _attack(given: AttackLike, threat: Threat, where: str) -> Attack:
    if isinstance(given, str | Mapping):
        return member(ATTACKS, filled(given, attack_fields(threat), where), where, threat.epsilon)
    require(where, given, Callable, "a name, a mapping with a name, or an attack")  # pyright: ignore[reportArgumentType]
    return given


def _suite(
    threat: Threat,
    budget: str,
    own: Mapping[str, AttackLike],
    num_classes: int,
    batch_size: int,
    seed: int,
    dtype: torch.dtype,
) -> Suite:
    """The attacks of a budget and of the caller; no tables of one-step attacks, which an evaluation in memory skips."""
    attacks, cascade = budget_attacks(budget, threat, num_classes)
    told = default_section(threat, several=False) | {"attacks": attacks, "cascade": cascade, "batch_size": batch_size}
    told |= {"grid": {"epsilons": [], "attacks": {}}, "adversarial": "uint8" if dtype == torch.uint8 else "float32"}
    section = typed(EvaluationSection, told, "evaluate", threat.epsilon)
    compute = Compute(device="auto", threads=torch.get_num_threads(), deterministic=True)
    suite = suite_of(section, threat, compute, seed, num_classes, "evaluate")
    built = {name: _attack(one, threat, f"attacks.{name}") for name, one in own.items()}
    return suite._replace(attacks=suite.attacks | built)


def _facts(model: nn.Module) -> dict[str, Any]:
    """What a report says of a model in memory, whose hash is that of its weights and buffers."""
    known = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        known.update(name.encode())
        known.update(tensor_bytes(tensor.detach().cpu().reshape(-1)))
    return {
        "file": "",
        "sha256": known.hexdigest(),
        "checkpoint": "best",
        "of": NAME,
        "architecture": {"name": type(model).__qualname__},
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epoch": None,
        "upstream": {},
    }


def _read(folder: Path, threat: Threat, data: Data) -> Evaluation:
    evaluation, outcomes = read_evaluation(folder)
    about = {"dataset": data.dataset, "num_images": len(data.test.labels), "sha256": data.sha256}
    document = build(evaluation, outcomes, {}, about, judge)
    mine = {name.removeprefix(f"{NAME}/"): o.clone() for name, o in outcomes.items() if name.startswith(f"{NAME}/")}
    verdict = document.verdict[NAME]
    objecting = [check for check in verdict.checks if check.rule in verdict.reasons]
    return Evaluation(
        threat=threat,
        clean=share(mine["clean"], float),
        worst_case=share(mine["worst_case"], float),
        attacks={name: share(mine[name], float) for name in document.attacks},
        verdict=verdict.status,
        reasons=tuple(f"{check.rule}: {check.meaning}" for check in objecting),
        outcomes=mine,
        document=document,
    )
