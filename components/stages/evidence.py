"""What the verdict on a model is judged from: probes on some images, and what the evaluation itself shows."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from components.attacks import ATTACKS
from components.attacks.apgd import Apgd
from components.attacks.cw import Cw
from components.attacks.eot import Eot
from components.attacks.fab import Fab
from components.attacks.mi_fgsm import MiFgsm
from components.attacks.parts.victim import Victim
from components.attacks.pgd import Pgd
from components.data.dividing import first_of_each_class
from components.evaluation.adversarials import Adversarials
from components.evaluation.campaign import ModelResults, Task, rescore
from components.evaluation.cascades import TARGETS
from components.evaluation.engine import Data
from components.evaluation.one_attack import TestSet
from components.evaluation.probes import pair, probe, wanted
from components.evaluation.suite import Suite
from components.foundation.params import member
from components.numerics.random_numbers import derived


def evidence_on(
    name: str,
    victims: Mapping[str, Victim],
    found: Mapping[str, ModelResults],
    data: Data,
    suite: Suite,
    adversarials: Adversarials,
    precision: Mapping[str, Any],
) -> dict[str, Any]:
    """The evidence on the model `name`, as `verdict.judge` reads it (docs/verdict.md lists the keys)."""
    results, images = found[name], first_of_each_class(data.test.labels, suite.section.probe_images)
    shape = tuple(data.test.images.shape[1:])
    part = TestSet(data.test.images[images], data.test.labels[images], data.test.batch_size)
    evidence: dict[str, Any] = {"images": len(images)}
    if suite.threat.epsilon:
        attacks = {n: member(ATTACKS, s, f"probe {n}") for n, s in wanted(suite.threat, shape).items()}
        seed, claimed = derived(suite.seed, "probe"), results.worst_case[images]
        evidence = probe(victims[name].exact, part, suite.threat, attacks, seed, claimed)
    # Of all images, those made for other models included; the probed and the saved ones are some of them.
    unanswered = [other.unanswered[name] for other in found.values() if name in other.unanswered]
    evidence["unanswered"] = max(evidence.get("unanswered", 0), int(torch.stack(unanswered).any(0).sum()))
    evidence["constant"] = _constant(results.outcomes["clean"], data)
    fallen = int((results.worst_case == 0).sum())
    evidence["rescored"] = {"claimed": fallen} | rescore(victims[name], data.test, suite.threat, adversarials)
    evidence["unanswered"] = max(evidence["unanswered"], evidence["rescored"]["unanswered"])
    counted = _counted(results, suite)
    evidence["budget"] = [*evidence.get("budget", []), *_budgets(results, counted)]
    # What fell at a smaller radius is counted too, but says nothing of how hard the claimed one was tried.
    at_claim = [task for task in counted if task.threat == suite.threat]
    evidence["reach"] = [found for task in at_claim for found in _reach(task)]
    evidence["apgd"] = [_apgd(task, len(data.classes)) for task in at_claim if isinstance(task.attack, Apgd)]
    evidence |= _of_the_cascade(results)
    if victims[name].search is not victims[name].exact:
        evidence["parity"] = precision["parity"][name]
    if pairs := _of_transfer(name, found):
        evidence.setdefault("pairs", {})["transfer"] = pairs
    return evidence


def _budgets(results: ModelResults, counted: list[Task]) -> list[dict[str, Any]]:
    """The largest perturbation of each attack that has no reason to stay below epsilon."""
    return [
        {"attack": task.name, "largest": results.largest[task.name], "epsilon": task.threat.radius}
        for task in counted
        # FAB looks for the *smallest* perturbation that fools.
        if task.name in results.largest and task.threat.epsilon and not isinstance(task.attack, Fab)
    ]


def _constant(clean: Tensor, data: Data) -> dict[str, Any]:
    """What the model makes of all unattacked images, beside what always giving the most common class would."""
    labels = data.test.labels
    common = int(labels.bincount().argmax())
    return pair(f"always answering '{data.classes[common]}'", labels == common, "the model", clean)


def _counted(results: ModelResults, suite: Suite) -> list[Task]:
    """The attacks that enter the worst case, those of a cascade at smaller radii included."""
    return [
        task for task in suite.full_tasks() if task.attack is not None and task.counts and task.name in results.outcomes
    ]


def _reach(task: Task) -> Iterator[dict[str, Any]]:
    """How far an attack of steps of one size can go in all, beside how far it must be able to: from the image to the
    boundary of the ball, from a random start across it."""
    attack = task.attack.attack if isinstance(task.attack, Eot) else task.attack
    if isinstance(attack, Pgd | Cw | MiFgsm):
        random = isinstance(attack, Pgd) and attack.start == "uniform"
        reach = attack.steps * float(attack.step_size)
        yield {"attack": task.name, "reach": reach, "wanted": (2 if random else 1) * task.threat.radius}


def _apgd(task: Task, num_classes: int) -> dict[str, Any]:
    """The settings of an APGD, beside how many targets the standard one would have."""
    assert isinstance(task.attack, Apgd)
    standard = task.threat.norm.standard
    wanted_targets = min(standard.targets if standard else TARGETS, num_classes - 1)
    settings = {key: getattr(task.attack, key) for key in ("loss", "steps", "rho", "targets")}
    return {"attack": task.name, **settings, "wanted_targets": wanted_targets}


def _of_the_cascade(results: ModelResults) -> dict[str, Any]:
    """What query-based search still took from the images that the gradient-based attacks before it had left."""
    names = list(results.outcomes)
    if "cascade/square" not in names:
        return {}
    place = names.index("cascade/square")
    before, after = results.outcomes[names[place - 1]], results.outcomes[names[place]]
    return {"square_helps": {"before": int(before.sum()), "after": int(after.sum()), "n": len(after)}}


def _of_transfer(name: str, found: Mapping[str, ModelResults]) -> list[dict[str, Any]]:
    """Per attack, the model's answers to what was made for others, beside those to what was made for itself."""
    return [
        pair(f"{attack} made for {source}", results.transfer[attack][name], f"{attack} made for itself", own)
        for attack, own in ((a, t[name]) for a, t in found[name].transfer.items())
        for source, results in found.items()
        if source != name and attack in results.transfer
    ]
