"""What every evaluation does, of the pipeline's models or of models from outside: run, probe, score again, write."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.adversarials import Adversarials
from components.attacks import ATTACKS
from components.campaign import ALONE, Campaign, Findings, Shard, Task, outcome_tensors, rescore
from components.evaluation import TestSet, predict
from components.noise import Noise
from components.outcome_journal import OutcomeJournal
from components.params import Ratio, member
from components.precision import parity
from components.probes import pair, probe, wanted
from components.provenance import fingerprint
from components.stages.evaluation_section import Settings
from components.storage import write_json, write_tensors
from components.victim import Victim

SCHEMA = "temper/evaluation/2"
# Images on which two forms of a network are compared while it is built.
SOME = 8


class Candidate(NamedTuple):
    """A model under evaluation.

    `facts` is what evaluation.json says of it: file, sha256, checkpoint (`best`, or `last`, which meets fewer attacks),
    of, architecture, num_parameters, epoch, upstream.
    """

    model: nn.Module
    facts: dict[str, Any]

    @property
    def selected(self) -> bool:
        return self.facts["checkpoint"] == "best"


class Data(NamedTuple):
    """The images under evaluation, and others to check a fast search on; `held_out` none where there are none."""

    dataset: str
    sha256: str
    classes: tuple[str, ...]
    test: TestSet
    held_out: TestSet | None


class Workplace(NamedTuple):
    """Where results go, where unfinished work is kept, and which of several processes this is."""

    results: Path
    unfinished: Path
    shard: Shard = ALONE


def evaluate(
    candidates: Mapping[str, Candidate],
    data: Data,
    settings: Settings,
    place: Workplace,
    extra: Mapping[str, Any],
    note: Callable[[str], None],
) -> None:
    """Writes outcomes.safetensors, gallery.safetensors, evaluation.json and adversarial/ (formats: docs/evaluation.md).

    `extra` is added to evaluation.json. Of several processes the first writes; the others only share the work.
    """
    victims, precision = _victims(candidates, data, settings, note)
    selected = [name for name, candidate in candidates.items() if candidate.selected]
    with OutcomeJournal.open(place.unfinished / "journal.jsonl", _key(candidates, data, settings)) as journal:
        # Beside its journal, by whose key it is called: what another evaluation left there is not mistaken for it.
        found_images = place.unfinished / f"adversarial.{journal.id}"
        kept = {name: Adversarials(found_images / f"{name}.npy", data.test, "float32") for name in selected}
        campaign = Campaign(victims, data.test, settings.seed, journal, selected, kept, place.shard)
        found = {}
        for name in candidates:
            found[name] = campaign.run(name, _tasks(candidates[name], settings))
            note(f"{name:20} " + _rates(found[name]))
    if place.shard.number:
        return
    evidence = {name: _evidence(name, victims, found, data, settings, kept[name], precision) for name in selected}
    files = {name: place.results / "adversarial" / f"{name}.npy" for name in selected}
    for name, path in files.items():
        path.unlink(missing_ok=True)
        evidence[name]["rescored_file"] = _publish(kept[name], path, victims[name], data.test, settings)
    write_tensors(place.results / "outcomes.safetensors", {"labels": data.test.labels} | outcome_tensors(found))
    _write_gallery({name: victims[name] for name in selected}, data, settings, place.results / "gallery.safetensors")
    description = {
        **_describe(candidates, data, settings),
        "evidence": evidence,
        "adversarial": {"dtype": settings.section.adversarial, "files": {n: str(p) for n, p in files.items()}},
        "cost": {name: findings.passes for name, findings in found.items()},
        "precision": precision,
        **extra,
    }
    write_json(place.results / "evaluation.json", description)


def _tasks(candidate: Candidate, settings: Settings) -> list[Task]:
    return settings.full_tasks() if candidate.selected else settings.short_tasks(settings.section.last_epoch_attacks)


def _victims(
    candidates: Mapping[str, Candidate], data: Data, settings: Settings, note: Callable[[str], None]
) -> tuple[dict[str, Victim], dict[str, Any]]:
    """Each model with the search network that the settings ask for, or, where that fails the check, with none."""
    search, victims, checks = settings.section.search, {}, {}
    some = next(data.test.batches())[0][:SOME]
    for name, candidate in candidates.items():
        victim = search.victim(candidate.model, some)
        if victim.search is not victim.exact:
            checks[name] = _parity(victim, data, settings)
            if not checks[name]["passed"]:
                note(f"{name}: {search.precision} search refused, float32 instead: {checks[name]}")
                victim = Victim(candidate.model)
        victims[name] = victim
    return victims, {
        "search": search.precision,
        "decision": "float32",
        "compiled": search.compiled,
        "parity": checks or None,
    }


def _parity(victim: Victim, data: Data, settings: Settings) -> dict[str, Any]:
    if data.held_out is None:
        return {"passed": False, "reason": "no held-out images to check it on"}
    return parity(victim, data.held_out, settings.curve_attack, settings.threat, settings.seed)


def _key(candidates: Mapping[str, Candidate], data: Data, settings: Settings) -> dict[str, Any]:
    """What a journal belongs to: other models, data, attacks, seed, batches, precision or code are another journal."""
    tasks = {name: [repr(task) for task in _tasks(candidate, settings)] for name, candidate in candidates.items()}
    return {
        "models": {name: candidate.facts["sha256"] for name, candidate in candidates.items()},
        "data": data.sha256,
        "threat": repr(settings.threat),
        "attacks": hashlib.sha256(repr(tasks).encode()).hexdigest()[:16],
        "seed": settings.seed,
        "batch_size": data.test.batch_size,
        "search": repr(settings.section.search),
        "images": len(data.test.labels),
        "code": fingerprint(),
    }


def _rates(findings: Findings) -> str:
    shown = {n: o for n, o in findings.outcomes.items() if not n.startswith(("curve/", "grid/"))}
    worst = {"worst case": findings.worst_case} if len(shown) > 1 else {}
    rates = {name: outcome.float().mean().item() for name, outcome in (shown | worst).items()}
    return "  ".join(f"{name.removeprefix('cascade/')} {rate:.1%}" for name, rate in rates.items())


def _evidence(
    name: str,
    victims: Mapping[str, Victim],
    found: Mapping[str, Findings],
    data: Data,
    settings: Settings,
    adversarials: Adversarials,
    precision: Mapping[str, Any],
) -> dict[str, Any]:
    """What the verdict on a model is judged from: probes on some images, and what the evaluation itself shows."""
    findings, images = found[name], spread(data.test.labels, settings.section.probe_images)
    shape = tuple(data.test.images.shape[1:])
    part = TestSet(data.test.images[images], data.test.labels[images], data.test.batch_size)
    evidence: dict[str, Any] = {"images": len(images)}
    if settings.threat.epsilon:
        attacks = {n: member(ATTACKS, s, f"probe {n}") for n, s in wanted(settings.threat, shape).items()}
        evidence = probe(victims[name].exact, part, settings.threat, attacks, settings.seed)
    claimed = int((findings.worst_case == 0).sum())
    evidence["rescored"] = {"claimed": claimed} | rescore(victims[name], data.test, settings.threat, adversarials)
    evidence |= _of_the_cascade(findings)
    if victims[name].search is not victims[name].exact:
        evidence["parity"] = precision["parity"][name]
    if pairs := _of_transfer(name, found):
        evidence.setdefault("pairs", {})["transfer"] = pairs
    return evidence


def _of_the_cascade(findings: Findings) -> dict[str, Any]:
    """What query-based search still took from the images that the gradient-based attacks before it had left."""
    names = list(findings.outcomes)
    squares = [name for name in names if name == "cascade/square"]
    if not squares:
        return {}
    before = findings.outcomes[names[names.index(squares[0]) - 1]]
    after = findings.outcomes[squares[0]]
    return {"square_helps": {"before": int(before.sum()), "after": int(after.sum()), "n": len(after)}}


def _of_transfer(name: str, found: Mapping[str, Findings]) -> list[dict[str, Any]]:
    """Per attack, the model's answers to what was made for others, beside those to what was made for itself."""
    return [
        pair(f"{attack} made for {source}", findings.transfer[attack][name], f"{attack} made for itself", own)
        for attack, own in ((a, t[name]) for a, t in found[name].transfer.items())
        for source, findings in found.items()
        if source != name and attack in findings.transfer
    ]


def spread(labels: Tensor, count: int) -> Tensor:
    """The places [<= count] of the first images of each class in turn, int64: one of each, then the next of each."""
    rank = torch.stack([(labels[:i] == labels[i]).sum() for i in range(len(labels))])
    return torch.argsort(rank * (int(labels.max()) + 1) + labels, stable=True)[:count]


def _publish(
    adversarials: Adversarials, path: Path, victim: Victim, test: TestSet, settings: Settings
) -> dict[str, Any]:
    """Copies the worst cases to `path` in the form asked for, and scores what is in that file."""
    published = Adversarials(path, test, settings.section.adversarial)
    for _, _, places in test.batches():
        published.keep(places, adversarials.read(places))
    return rescore(victim, test, settings.threat, published)


def _write_gallery(victims: Mapping[str, Victim], data: Data, settings: Settings, path: Path) -> None:
    """Writes some test images, one of each class in turn, with every model's adversarial version and its answers."""
    test, places = data.test, spread(data.test.labels, settings.section.gallery_images)
    images, labels, _ = next(test._replace(batch_size=len(places)).batches(places))
    tensors, clean, attacked = {"images": test.images[places]}, {}, {}
    for name, victim in victims.items():
        images_adv = settings.curve_attack(victim, images, labels, settings.threat, Noise(settings.seed, places))
        tensors[f"adversarial/{name}"] = images_adv
        clean[name], attacked[name] = predict(victim, images).tolist(), predict(victim, images_adv).tolist()
    metadata = {
        "indices": places.tolist(),
        "labels": labels.tolist(),
        "attack": settings.section.curve_attack,
        "clean": clean,
        "adversarial": attacked,
    }
    write_tensors(path, tensors, metadata)


def _describe(candidates: Mapping[str, Candidate], data: Data, settings: Settings) -> dict[str, Any]:
    """What was evaluated, and how."""
    section = settings.section
    shown = section.transfer_attacks
    return {
        "schema": SCHEMA,
        "dataset": data.dataset,
        "threat": {"norm": settings.threat.norm, "epsilon": str(settings.threat.epsilon)},
        "classes": list(data.classes),
        "num_images": len(data.test.labels),
        "models": {name: candidate.facts for name, candidate in candidates.items()},
        "attacks": {name: repr(attack) for name, attack in settings.attacks.items()},
        "cascade": {
            "name": settings.cascade_name,
            "epsilons": [str(Ratio(e)) for e in section.cascade_epsilons],
            "attacks": {name: repr(attack) for name, attack in settings.cascade.items()},
        },
        "curve": {"epsilons": [str(Ratio(e)) for e in section.curve_epsilons], "attack": repr(settings.curve_attack)},
        "grid": {
            "epsilons": [str(Ratio(e)) for e in section.grid.epsilons],
            "attacks": {name: repr(attack) for name, attack in settings.grid.items()},
        },
        "transfer": {"attacks": {name: repr(attack) for name, attack in settings.attacks.items() if name in shown}},
        "seed": settings.seed,
    }
