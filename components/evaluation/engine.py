"""What every evaluation does, of the pipeline's models or of models from outside: run, probe, score again, write."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.attacks.parts.attack import Attack
from components.attacks.parts.victim import Victim
from components.data.dividing import first_of_each_class
from components.data.splits import LabelledImages, digest
from components.evaluation.adversarials import Adversarials
from components.evaluation.campaign import ALONE, Campaign, ModelResults, Shard, Task, outcome_tensors, rescore
from components.evaluation.captured_search import CapturedSearch, SearchCapture
from components.evaluation.document import DOCUMENT, GALLERY, OUTCOMES, Evaluation
from components.evaluation.journal import OutcomeJournal
from components.evaluation.one_attack import TestSet, predict
from components.evaluation.progress import SILENT, Progress
from components.evaluation.search_network import parity, refusal
from components.evaluation.suite import Suite
from components.foundation.provenance import code_of, fingerprint, members_of, versions
from components.foundation.storage import sha256
from components.numerics.compute import resolved
from components.numerics.random_numbers import Noise, derived
from components.numerics.tensor_files import write_tensors
from components.statistics.documents import write_document
from components.statistics.outcomes import hardest

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
    """The images under evaluation with their own hash, and others, if there are any, to check a fast search on.

    `files` are the names of the image files, where the images come from such.
    """

    dataset: str
    sha256: str
    classes: tuple[str, ...]
    test: TestSet
    held_out: TestSet | None
    files: Sequence[str] = ()


class Folders(NamedTuple):
    """Where results go, where unfinished work is kept, and which of several processes this is."""

    results: Path
    unfinished: Path
    shard: Shard = ALONE


EvidenceOn = Callable[
    [str, Mapping[str, Victim], Mapping[str, ModelResults], Data, Suite, Adversarials, Mapping[str, Any]],
    dict[str, Any],
]
"""A model's name, all victims, their results, its adversarial images, the precision -> what `verdict.judge` reads."""


def evaluate(
    candidates: Mapping[str, Candidate],
    data: Data,
    suite: Suite,
    place: Folders,
    evidence_on: EvidenceOn,
    extra: Mapping[str, Any],
    note: Callable[[str], None],
    progress: Progress = SILENT,
) -> None:
    """Writes outcomes.safetensors, gallery.safetensors, evaluation.json and adversarial/ (formats: docs/evaluation.md).

    `evidence_on` says what a verdict on a model is judged from. `extra` are its keys `training_cost`, `teachers`,
    `params` and `provenance` of evaluation.json. Of several processes the first writes; the others only share the work.
    """
    capture = SearchCapture(suite.compute.capture, data.test.labels.device, note)
    fast = _fast(candidates, data, suite, capture)
    selected = [name for name, candidate in candidates.items() if candidate.selected]
    with OutcomeJournal.open(place.unfinished / "journal.jsonl", journal_key(candidates, data, suite)) as journal:
        victims, precision = _checked(fast, data, suite, capture, journal, note)
        # Beside its journal, by whose key it is called: what another evaluation left there is not mistaken for it.
        found_images = place.unfinished / f"adversarial.{journal.id}"
        kept = {name: Adversarials(found_images / f"{name}.npy", data.test, "float32") for name in selected}
        campaign = Campaign(victims, data.test, suite.seed, journal, selected, kept, place.shard, progress)
        if journal.shared:
            note("another process evaluates into this folder: the two share the work")
        tasks = {name: _tasks(candidate, suite) for name, candidate in candidates.items()}
        progress.plan(tasks, len(data.test.labels), place.shard.processes)
        found = {name: _told(note, name, campaign.run(name, each)) for name, each in tasks.items()}
        if not place.shard.number:
            # Two that shared the work write the same bytes, one after the other.
            with journal.claim("results", wait=True):
                evidence = {}
                for name in selected:
                    progress.checks(name)
                    evidence[name] = evidence_on(name, victims, found, data, suite, kept[name], precision)
                known = {"evidence": evidence, "precision": precision, **extra}
                _write(candidates, victims, found, kept, data, suite, place.results, known)


def _write(
    candidates: Mapping[str, Candidate],
    victims: Mapping[str, Victim],
    found: Mapping[str, ModelResults],
    kept: Mapping[str, Adversarials],
    data: Data,
    suite: Suite,
    results: Path,
    known: Mapping[str, Any],
) -> None:
    """Writes the files of an evaluation; `known` are keys of evaluation.json that exist already, such as evidence."""
    files = {name: results / "adversarial" / f"{name}.npy" for name in kept}
    for name, path in files.items():
        # What is scored is that file, in the form asked for.
        published = kept[name].copied(path, suite.section.adversarial)
        scored = rescore(victims[name], data.test, suite.threat, published)
        evidence = known["evidence"][name]
        evidence["rescored_file"] = scored
        evidence["unanswered"] = max(evidence["unanswered"], scored["unanswered"])
    outcomes = {"labels": data.test.labels} | outcome_tensors(found)
    write_tensors(results / OUTCOMES, outcomes)
    shown = _shown(list(kept), outcomes, data, suite)
    _write_gallery({name: victims[name] for name in kept}, shown, data, suite, results)
    content = _setting(data, suite) | {
        "files": {name: sha256(results / name) for name in (OUTCOMES, GALLERY)},
        "models": {name: candidate.facts for name, candidate in candidates.items()},
        "adversarial": {"dtype": suite.section.adversarial, "files": {name: str(path) for name, path in files.items()}},
        "cost": {name: model_results.passes for name, model_results in found.items()},
        **known,
        "provenance": {"test.sha256": data.sha256, **known["provenance"]},
    }
    write_document(results / DOCUMENT, Evaluation.model_validate(content))


def _tasks(candidate: Candidate, suite: Suite) -> list[Task]:
    return suite.full_tasks() if candidate.selected else suite.short_tasks(suite.section.last_epoch_attacks)


def _fast(candidates: Mapping[str, Candidate], data: Data, suite: Suite, capture: SearchCapture) -> dict[str, Victim]:
    """Each model with the search network that the suite asks for."""
    search, some = suite.section.search, next(data.test.batches())[0][:SOME]
    return {
        name: capture.captured(name, search.victim(candidate.model, some), some, search.compiled)
        for name, candidate in candidates.items()
    }


def _checked(
    fast: Mapping[str, Victim],
    data: Data,
    suite: Suite,
    capture: SearchCapture,
    journal: OutcomeJournal,
    note: Callable[[str], None],
) -> tuple[dict[str, Victim], dict[str, Any]]:
    """The models without those search networks that fail their check, and what evaluation.json says of precision."""
    victims, checks, search = dict(fast), {}, suite.section.search
    precision = resolved(search.precision, data.test.labels.device)
    for name, victim in fast.items():
        if victim.search is not victim.exact:
            checks[name] = _parity(name, victim, data, suite, journal)
            if not checks[name]["passed"]:
                note(f"{name}: {precision} search refused, float32 instead: {refusal(checks[name])}")
                victims[name] = Victim(victim.exact)
                if isinstance(victim.search, CapturedSearch):
                    capture.refuse(f"{name}: its {precision} search is refused")
    return victims, {"search": precision, "decision": "float32", "compiled": search.compiled, "parity": checks or None}


def _parity(name: str, victim: Victim, data: Data, suite: Suite, journal: OutcomeJournal) -> dict[str, Any]:
    """The check of a search network. It takes minutes, so what it found is in the journal like an attack's outcomes."""
    if data.held_out is None:
        return {"passed": False, "reason": "no held-out images to check it on"}
    images, device = LabelledImages(data.held_out.images.cpu(), data.held_out.labels.cpu()), data.held_out.labels.device
    # What the journal's key does not tell: another device may go on with it, where the search is another one.
    about = {
        "held_out": digest({"held_out": images}),
        "attack": repr(suite.curve_attack),
        "device": device.type,
        "precision": resolved(suite.section.search.precision, device),
        "captured": isinstance(victim.search, CapturedSearch),
    }
    unit = f"parity/{name}/{fingerprint(about)}"
    with journal.claim(unit, wait=True):
        if unit not in journal.units:
            seed = derived(suite.seed, "parity")
            journal.append(unit, parity(victim, data.held_out, suite.curve_attack, suite.threat, seed))
    return journal.units[unit]


def attack_code(candidates: Mapping[str, Candidate], suite: Suite) -> dict[str, str]:
    """The code that outcomes depend on, file -> hash: the engine, the attacks and the models, no verdict, no report."""
    networks = {file for candidate in candidates.values() for file in members_of(list(candidate.model.modules()))}
    return code_of({"components/evaluation/engine.py"} | networks | members_of(suite))


def journal_key(candidates: Mapping[str, Candidate], data: Data, suite: Suite) -> dict[str, Any]:
    """What a journal belongs to: other models, data, attacks, seed, batches, precision or code are another journal.

    So is `compute.capture: off`: a replay is filled up to another size, by which libraries choose their algorithms, and
    bits differ. `auto` and `on` compute the same.
    """
    tasks = {name: [repr(task) for task in _tasks(candidate, suite)] for name, candidate in candidates.items()}
    return {
        "models": {name: candidate.facts["sha256"] for name, candidate in candidates.items()},
        "data": data.sha256,
        "threat": repr(suite.threat),
        "attacks": hashlib.sha256(repr(tasks).encode()).hexdigest()[:16],
        "seed": suite.seed,
        "batch_size": data.test.batch_size,
        "search": repr(suite.section.search),
        "captured": suite.compute.capture != "off",
        "images": len(data.test.labels),
        "code": fingerprint(attack_code(candidates, suite)),
        "versions": versions(),
    }


def _told(note: Callable[[str], None], name: str, found: ModelResults) -> ModelResults:
    note(f"{name:20} " + _rates(found))
    return found


def _rates(model_results: ModelResults) -> str:
    shown = {n: o for n, o in model_results.outcomes.items() if not n.startswith(("curve/", "grid/"))}
    worst = {"worst case": model_results.worst_case} if len(shown) > 1 else {}
    rates = {name: outcome.float().mean().item() for name, outcome in (shown | worst).items()}
    return "  ".join(f"{name.removeprefix('cascade/')} {rate:.1%}" for name, rate in rates.items())


def _shown(selected: list[str], outcomes: Mapping[str, Tensor], data: Data, suite: Suite) -> Tensor:
    """The places of the gallery's images: some of each class in turn, then the hardest, which the report shows too."""
    first = first_of_each_class(data.test.labels, suite.section.gallery_images)
    last = [f"cascade/{name}" for name in suite.cascade][-1:]
    runs = {name: [outcomes[f"{name}/{task}"].cpu() for task in (*suite.attacks, *last)] for name in selected}
    on_cpu = {name: outcome.cpu() for name, outcome in outcomes.items()}
    epsilons = list(map(str, suite.section.curve_epsilons))
    found = hardest(data.classes, on_cpu["labels"], runs if suite.attacks or last else {}, on_cpu, epsilons)
    hard = [image.index for image in found.images] if found else []
    return torch.tensor(list(dict.fromkeys([*first.tolist(), *hard])), device=first.device)


def _write_gallery(victims: Mapping[str, Victim], places: Tensor, data: Data, suite: Suite, results: Path) -> None:
    """Writes the test images at `places` with every model's adversarial version and its answers."""
    test = data.test
    tensors, seed = {"images": test.images[places]}, derived(suite.seed, "attacks")
    answers: dict[str, dict[str, list[int]]] = {"clean": {}, "adversarial": {}}
    for name, victim in victims.items():
        attacked = list[Tensor]()
        answers["clean"][name], answers["adversarial"][name] = [], []
        for images, labels, chosen in test.batches(places):
            attacked.append(suite.curve_attack(victim, images, labels, suite.threat, Noise(seed, chosen)))
            answers["clean"][name] += predict(victim, images).tolist()
            answers["adversarial"][name] += predict(victim, attacked[-1]).tolist()
        tensors[f"adversarial/{name}"] = torch.cat([test.images[:0].float(), *attacked])
    about = {"indices": places.tolist(), "labels": test.labels[places].tolist(), "attack": suite.section.curve_attack}
    files = {"files": [data.files[place] for place in places.tolist()]} if data.files else {}
    write_tensors(results / GALLERY, tensors, about | files | answers)


def _setting(data: Data, suite: Suite) -> dict[str, Any]:
    """Of evaluation.json what is known beforehand: the images, and the attacks on them."""
    section, attacks, steps = suite.section, _described(suite.attacks), _described(suite.cascade)
    return {
        "schema": "temper/evaluation/2",
        "dataset": data.dataset,
        "threat": suite.threat.section,
        "classes": data.classes,
        "num_images": len(data.test.labels),
        "attacks": attacks,
        "cascade": {"name": suite.cascade_name, "epsilons": list(map(str, section.cascade_epsilons)), "attacks": steps},
        "curve": {"epsilons": list(map(str, section.curve_epsilons)), "attack": repr(suite.curve_attack)},
        "grid": {"epsilons": list(map(str, section.grid.epsilons)), "attacks": _described(suite.grid)},
        "transfer": {"attacks": {name: attacks[name] for name in attacks if name in section.transfer_attacks}},
        "seed": suite.seed,
    }


def _described(attacks: Mapping[str, Attack]) -> dict[str, str]:
    return {name: repr(attack) for name, attack in attacks.items()}
