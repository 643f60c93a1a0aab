"""Stage evaluate_attacks: what every attack does to every test image, for both teachers and the student."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.attacks import ATTACKS
from components.attacks.pgd import Pgd
from components.compute import Compute
from components.contracts import Attack
from components.errors import InputError, choose
from components.evaluation import Outcome, TestSet, epsilon_curve, run_attack, transfer
from components.journal import Journal
from components.model_file import ModelCard, load_model
from components.params import STRICT, Fractional, Params, Ratio, member
from components.provenance import code_hash, versions
from components.splits import Splits, read_splits
from components.stages import run
from components.storage import read_json, sha256, write_json, write_tensors
from components.threat import Threat

STAGE = "evaluate_attacks"
DATA = Path("data/normalized.safetensors")
# The sections that dvc.yaml declares: others may change without a new evaluation, so none of them is written to it.
READ = ("seed", "compute", "threat", STAGE)
ROLES = ("clean_teacher", "robust_teacher", "student")
# What tables call their other columns.
RESERVED = ("clean", "worst_case", "w_robust")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Section:
    """The keys of the section: named attacks, and which of them draw the ε curve, transfer, judge the last epoch."""

    batch_size: int
    attacks: dict[str, dict[str, Any]]
    curve_attack: str
    curve_epsilons: tuple[Fractional, ...]
    transfer_attack: str
    last_epoch_attacks: tuple[str, ...]
    gallery_images: int

    def __post_init__(self) -> None:
        for name in ("batch_size", "gallery_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"got {name} {getattr(self, name)}, want at least 1")
        for name in self.attacks:
            if name in RESERVED or "/" in name:
                raise ValueError(f"got an attack called {name!r}, want no '/' in it and none of {', '.join(RESERVED)}")
        if not self.curve_epsilons or min(self.curve_epsilons) < 0:
            raise ValueError(f"got curve_epsilons {list(self.curve_epsilons)}, want at least one, all of at least 0")


class Settings(NamedTuple):
    """The section with its attacks built, and the sections it shares."""

    section: Section
    attacks: dict[str, Attack]
    curve_attack: Pgd
    threat: Threat
    compute: Compute
    seed: int


def read(params: Params) -> Settings:
    """The stage's settings, all checked."""
    section, where = params.typed(Section, STAGE), f"{params.path}: {STAGE}"
    attacks = {name: member(ATTACKS, spec, f"{where}.attacks.{name}") for name, spec in section.attacks.items()}
    curve = choose(attacks, section.curve_attack, f"{where}.curve_attack")
    if not isinstance(curve, Pgd):
        raise InputError(
            f"{where}.curve_attack: {section.curve_attack} is {curve}, want a pgd (its step scales with ε)"
        )
    choose(attacks, section.transfer_attack, f"{where}.transfer_attack")
    for name in section.last_epoch_attacks:
        choose(attacks, name, f"{where}.last_epoch_attacks")
    threat, compute = params.typed(Threat, "threat"), params.typed(Compute, "compute")
    if threat.epsilon == 0 and any(section.curve_epsilons):
        raise InputError(f"{where}.curve_epsilons: want only 0 where threat.epsilon is 0 (its step scales with ε)")
    return Settings(section, attacks, curve, threat, compute, params.seed)


class Candidate(NamedTuple):
    """A model file under evaluation."""

    model: nn.Module
    card: ModelCard
    role: str
    checkpoint: str
    path: Path


def main(params: Params, journal: Journal) -> None:
    """Writes evaluation/outcomes.safetensors, gallery.safetensors and evaluation.json (formats: docs/evaluation.md)."""
    settings = read(params)
    device = settings.compute.prepare()
    splits = read_splits(DATA)
    candidates = load_candidates(splits, device)
    test = TestSet(splits.test.images.to(device), splits.test.labels.to(device), settings.section.batch_size)
    outcomes: dict[str, Tensor] = {"labels": splits.test.labels}
    cost: dict[str, dict[str, dict[str, int]]] = {}
    crafted: dict[str, Outcome] = {}
    for name, candidate in candidates.items():
        results = attack_model(name, candidate, test, settings, journal)
        outcomes |= {f"{name}/{attack}": outcome.right for attack, outcome in results.items()}
        cost[name] = {attack: outcome.passes for attack, outcome in results.items()}
        if candidate.checkpoint == "best":
            crafted[f"{name}/clean"], crafted[name] = results["clean"], results[settings.section.transfer_attack]
    targets = {name: c.model for name, c in candidates.items() if c.checkpoint == "best"}
    for source in targets:
        for target, right in transfer(targets, crafted[source].images_adv, test).items():
            outcomes[f"transfer/{source}/{target}"] = right
    write_gallery(splits, crafted, settings)
    write_tensors("evaluation/outcomes.safetensors", outcomes)
    write_json("evaluation/evaluation.json", describe(params, settings, splits, candidates, cost, device))
    journal.upstream(
        {"normalized": sha256(DATA)} | {c.role: sha256(c.path) for c in candidates.values() if c.checkpoint == "best"}
    )
    journal.artifact(Path("evaluation/evaluation.json"))
    journal.artifact(Path("evaluation/outcomes.safetensors"))


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
            candidates[role + mark] = Candidate(model, card, role, checkpoint, path)
    return candidates


def attack_model(
    name: str, candidate: Candidate, test: TestSet, settings: Settings, journal: Journal
) -> dict[str, Outcome]:
    """The outcome of no attack, of each attack, and, for a best epoch, of the ε curve (`curve/0`, `curve/1`, …)."""
    section, best = settings.section, candidate.checkpoint == "best"
    chosen = {n: a for n, a in settings.attacks.items() if best or n in section.last_epoch_attacks}
    results = {}
    for attack_name, attack in {"clean": None, **chosen}.items():
        results[attack_name] = run_attack(candidate.model, test, attack, settings.threat, settings.seed)
    if best:
        curve = epsilon_curve(
            candidate.model, test, settings.curve_attack, settings.threat, section.curve_epsilons, settings.seed
        )
        results |= {f"curve/{index}": outcome for index, outcome in enumerate(curve)}
    rates = {n: o.right.float().mean().item() for n, o in results.items() if not n.startswith("curve/")}
    journal.note(f"{name:20} " + "  ".join(f"{attack} {rate:.1%}" for attack, rate in rates.items()))
    return results


def write_gallery(splits: Splits, crafted: dict[str, Outcome], settings: Settings) -> None:
    """Writes the first test images of each class in turn, with every model's adversarial version and its answers."""
    labels = splits.test.labels
    # The rank of each image within its class, then the class: one of each class first, then the next of each.
    rank = torch.stack([(labels[:i] == labels[i]).sum() for i in range(len(labels))])
    chosen = torch.argsort(rank * len(splits.classes) + labels, stable=True)[: settings.section.gallery_images]
    models = [name for name in crafted if not name.endswith("/clean")]
    tensors = {"images": splits.test.images[chosen]}
    tensors |= {f"adversarial/{name}": crafted[name].images_adv.cpu()[chosen] for name in models}
    metadata = {
        "indices": chosen.tolist(),
        "labels": labels[chosen].tolist(),
        "attack": settings.section.transfer_attack,
        "clean": {name: crafted[f"{name}/clean"].predicted.cpu()[chosen].tolist() for name in models},
        "adversarial": {name: crafted[name].predicted.cpu()[chosen].tolist() for name in models},
    }
    write_tensors("evaluation/gallery.safetensors", tensors, metadata)


def describe(
    params: Params,
    settings: Settings,
    splits: Splits,
    candidates: dict[str, Candidate],
    cost: dict[str, dict[str, dict[str, int]]],
    device: torch.device,
) -> dict[str, Any]:
    """What was evaluated, how, at what cost and from what: the content of evaluation.json."""
    section = settings.section
    models = {
        name: {
            "file": str(c.path),
            "sha256": sha256(c.path),
            "checkpoint": c.checkpoint,
            "of": c.role,
            "architecture": c.card.architecture,
            "num_parameters": sum(p.numel() for p in c.model.parameters()),
            "epoch": c.card.epoch,
            "upstream": c.card.upstream,
        }
        for name, c in candidates.items()
    }
    return {
        "schema": "temper/evaluation/1",
        "dataset": splits.dataset,
        "threat": {"norm": settings.threat.norm, "epsilon": str(settings.threat.epsilon)},
        "classes": splits.classes,
        "num_images": len(splits.test),
        "models": models,
        "attacks": {name: repr(attack) for name, attack in settings.attacks.items()},
        "curve": {"epsilons": [str(Ratio(e)) for e in section.curve_epsilons], "attack": repr(settings.curve_attack)},
        "transfer": {"attack": f"{section.transfer_attack}: {settings.attacks[section.transfer_attack]!r}"},
        "cost": cost,
        "training_cost": {role: read_json(f"metrics/{role}.json")["passes"] for role in ROLES},
        "precision": "float32",
        "seed": settings.seed,
        "params": {key: params.get(key) for key in READ},
        "provenance": {"data.sha256": sha256(DATA), "code.sha256": code_hash(), "device": device.type, **versions()},
    }


if __name__ == "__main__":
    run(STAGE, main)
