"""What a model does when it is probed: counts on a few hundred test images, from which `verdict.judge` decides."""

import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode, input_gradient
from components.attacks.parts.attack import Attack
from components.attacks.parts.victim import Victim, exact
from components.evaluation.one_attack import TestSet, run_attack
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.numerics.cost import PassCounter
from components.numerics.losses import NO_ANSWER, answers, cross_entropy, margin
from components.threats.parts.threat import Threat

FORWARDS = 5
# How many images go through the model alone, and how many at a time when they go in small batches.
ALONE, FEW = 16, 7
# Names of modules and buffers that a finding lists, at most.
LISTED = 5
# How far a sum of probabilities may be from one, and a log of such a sum from zero, in float32.
UNIT = 1e-5


def wanted(threat: Threat, image_shape: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """The attacks that `probe` asks for, by the name it asks with: sections as params.yaml would hold them.

    `image_shape` is (channels, height, width). Error: a radius of 0, where there is nothing to probe.
    """
    if threat.epsilon == 0:
        raise InputError("threat.epsilon: got 0, want a radius above 0: without one no attack can be judged")

    def pgd(name: str, steps: int, restarts: int = 1) -> dict[str, Any]:
        step_size = str(Ratio(radius_of(name, threat, image_shape).epsilon / 4))
        loss = {"loss": "cross_entropy", "restarts": restarts}
        return {"name": "pgd", "steps": steps, "step_size": step_size, "start": "uniform", **loss}

    ladder = {"pgd": 20, "pgd_few": 5, "pgd_half": 10, "pgd_double": 10, "pgd_large": 20}
    square = {"name": "square", "p_init": 0.8, "restarts": 1, "loss": "margin"}
    return {name: pgd(name, steps) for name, steps in ladder.items()} | {
        "pgd_restarts": pgd("pgd_restarts", ladder["pgd_few"], restarts=3),
        "cw": {"name": "cw", "steps": 10, "step_size": str(Ratio(threat.epsilon / 4)), "confidence": 50},
        "fgsm": {"name": "fgsm", "aim": "true"},
        "fgsm_predicted": {"name": "fgsm", "aim": "predicted"},
        "step_ll": {"name": "step_ll"},
        "r_fgsm": {"name": "r_fgsm"},
        "square": square | {"queries": 200},
        "square_few": square | {"queries": 50},
    }


def radius_of(name: str, threat: Threat, image_shape: tuple[int, ...]) -> Threat:
    """The threat model of one of the `wanted` attacks.

    `pgd_large`: the radius at which every image can become plain grey, rounded up to halves: for d numbers per image
    1/2 in L∞, √d/2 in L2 and d/2 in L1. `pgd_double`: twice epsilon, or that radius where it is smaller.
    """
    to_grey = threat.size(torch.full((1, *image_shape), 0.5, dtype=torch.float64))
    grey = Ratio(math.ceil(2 * float(to_grey)), 2)
    large = max(grey, threat.epsilon)
    radii = {"pgd_half": threat.epsilon / 2, "pgd_double": min(2 * threat.epsilon, large), "pgd_large": large}
    return threat.at(Ratio(radii.get(name, threat.epsilon)))


def probe(
    model: nn.Module,
    test: TestSet,
    threat: Threat,
    attacks: Mapping[str, Attack],
    seed: int,
    claimed: Tensor | None = None,
) -> dict[str, Any]:
    """The evidence on a model, as `judge` reads it: JSON-able counts and numbers (docs/verdict.md lists the keys).

    Args:
        model: as handed over, in whatever mode; its state is the same afterwards.
        test: some of the test images, a few hundred: uint8, or float pixels as the model is given them.
        attacks: the `wanted` ones, built; what is missing leaves its rules unmeasured.
        claimed: uint8 [N], which of these images the evaluation says are right in the worst case.
    """
    network = exact(model)
    names = [name or "the model itself" for name, module in network.named_modules() if module.training]
    evidence: dict[str, Any] = {
        "images": len(test.labels),
        "most_common": int(test.labels.bincount().max()),
        "threat": threat.section,
        "training": {"modules": len(names), "names": names[:LISTED]},
        "unanswered": 0,
    }
    counter = PassCounter(*model.networks) if isinstance(model, Victim) else PassCounter(model)
    evidence |= _forwards(network, test)
    inside = evidence["pixels"]["low"] >= 0 and evidence["pixels"]["high"] <= 1
    # Attacks on images out of range, or on a network that cannot be differentiated, would stop with an error.
    if inside and evidence["outputs"]["finite"]:
        evidence["zero_gradients"] = _zero_gradients(network, test)
        if evidence["zero_gradients"]["differentiable"]:
            right, found = _attacked(model, test, threat, attacks, seed)
            evidence |= found
            if claimed is not None:
                evidence["claim"] = _claim(right, claimed)
    counter.close()
    return evidence | {"passes": counter.take()}


def pair(first: str, right_first: Tensor, then: str, right_then: Tensor) -> dict[str, Any]:
    """How accuracy changes from one condition to another on the same images (outcomes [n], 1 is right).

    `gained` images are right only under `then`, `lost` ones only under `first`.
    """
    one, other = right_first.bool(), right_then.bool()
    gained, lost = int((other & ~one).sum()), int((one & ~other).sum())
    rights = {"right_first": int(one.sum()), "right_then": int(other.sum())}
    return {"first": first, "then": then, "n": one.numel(), **rights, "gained": gained, "lost": lost}


def used_budget(attack: str, images: Tensor, images_adv: Tensor, threat: Threat) -> dict[str, Any]:
    """The largest perturbation among adversarial images [N, C, H, W], beside the radius that was claimed for them."""
    return {"attack": attack, "largest": float(threat.size(images_adv - images).max()), "epsilon": threat.radius}


@torch.no_grad()
def _forwards(network: nn.Module, test: TestSet) -> dict[str, Any]:
    """What plain forward passes show: pixels, the form of the outputs, buffers that move, repeats and batches."""
    images = torch.cat([part for part, _, _ in test.batches()])
    low, high = torch.aminmax(images)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with eval_mode(network):
        # The same batches again for repeats; then each image among other neighbours, or among none.
        repeats = [_logits(network, images, test.batch_size) for _ in range(FORWARDS)]
        alone = _logits(network, images[:ALONE], 1)
        small = _logits(network, images, FEW)
        # As many at a time as memory is said to hold, yet not the same neighbours where those are not all.
        whole = len(images) <= test.batch_size
        turned = _logits(network, images.flip(0), len(images) if whole else max(1, 2 * test.batch_size // 3)).flip(0)
    buffers = dict(network.named_buffers())
    moved = [name for name, buffer in before.items() if not torch.equal(buffer, buffers[name])]
    for name, buffer in before.items():
        buffers[name].copy_(buffer)
    first = repeats[0]
    return {
        "pixels": {"low": _number(low), "high": _number(high)},
        "outputs": _form(first),
        "moved_buffers": {"buffers": len(moved), "names": moved[:LISTED]},
        "repeats": {"forwards": FORWARDS} | _difference([(first, again) for again in repeats[1:]]),
        "batches": _difference([(first[:ALONE], alone), (first, small), (first, turned)]),
    }


def _logits(network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    return torch.cat([network(part) for part in images.split(batch_size)]).float()


def _form(logits: Tensor) -> dict[str, Any]:
    """On how many images the outputs look like probabilities, or like their logarithms."""
    sums_to_one = (logits.sum(1) - 1).abs() < UNIT
    in_range = ((logits >= 0) & (logits <= 1)).all(1)
    normalised = logits.logsumexp(1).abs() < UNIT * 10
    return {
        "finite": bool(logits.isfinite().all()),
        "probabilities": int((sums_to_one & in_range).sum()),
        "log_probabilities": int(normalised.sum()),
    }


def _difference(logits: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """The largest change of an image's logits relative to their own size, and how many answers changed at all."""
    changed = sum(int((answers(one) != answers(other)).sum()) for one, other in logits)
    sizes = [(one - other).norm(dim=1) / one.norm(dim=1).clamp_min(1e-12) for one, other in logits]
    return {"changed": changed, "difference": _number(torch.cat(sizes).max())}


def _zero_gradients(network: nn.Module, test: TestSet) -> dict[str, Any]:
    """Among the images classified right: how many have no gradient at all, of the margin and of the cross-entropy."""
    counts: dict[str, Any] = {"differentiable": True, "right": 0, "margin": 0, "cross_entropy": 0}
    with eval_mode(network):
        for images, labels, _ in test.batches():
            with torch.enable_grad():
                logits = network(images.detach().requires_grad_())
            right = answers(logits) == labels
            counts["right"] += int(right.sum())
            if not logits.requires_grad:
                return counts | {"differentiable": False}
            for name, loss in (("margin", margin), ("cross_entropy", cross_entropy)):
                gradient = input_gradient(network, images, partial(loss, labels=labels))
                counts[name] += int((right & (gradient.flatten(1) == 0).all(1)).sum())
    return counts


def _attacked(
    model: nn.Module, test: TestSet, threat: Threat, attacks: Mapping[str, Attack], seed: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Right answers under every attack, uint8 [N]; and as evidence their counts, the pairs to be compared, and the
    budget that the main attack used."""
    clean = run_attack(model, test, None, threat, seed)
    right, found, shape = {"clean": clean.right}, {}, tuple(test.images.shape[1:])
    unanswered = clean.predicted == NO_ANSWER
    for name, attack in attacks.items():
        outcome = run_attack(model, test, attack, radius_of(name, threat, shape), seed)
        right[name] = outcome.right
        unanswered |= outcome.predicted == NO_ANSWER
        if name == "pgd":
            images = torch.cat([part for part, _, _ in test.batches()])
            found["budget"] = [used_budget(repr(attack), images, outcome.images_adv, threat)]
    if {"pgd", "cw"} <= right.keys():
        right["white_box"] = torch.minimum(right["pgd"], right["cw"])
    # All or none: half a comparison would look like a whole one.
    chains = {rule: chain for rule, chain in COMPARED.items() if all({*names} <= right.keys() for names in chain)}
    pairs = {rule: [pair(a, right[a], b, right[b]) for a, b in chain] for rule, chain in chains.items()}
    found = {"right": {name: int(outcome.sum()) for name, outcome in right.items()}, "pairs": pairs} | found
    found["unanswered"] = int(unanswered.sum())
    if "pgd_large" in right:
        found["large_classes"] = len(test.labels[right["pgd_large"].bool()].unique())
    if "pgd_few" in attacks:
        # On how many images an attack that may change nothing changes the answer.
        still = run_attack(model, test, attacks["pgd_few"], threat.at(Ratio(0)), seed)
        found["epsilon_zero"] = {"changed": int((still.predicted != clean.predicted).sum())}
    return right, found


# Larger radii than the claimed one, under which an image may fall that the claim rightly counts.
BEYOND = ("pgd_double", "pgd_large")


def _claim(right: Mapping[str, Tensor], claimed: Tensor) -> dict[str, Any]:
    """The claimed worst case beside what the probe's own attacks leave of the same images."""
    standing = torch.stack([outcome for name, outcome in right.items() if name not in BEYOND]).amin(0)
    return pair("the probe's attacks", standing, "the reported worst case", claimed)


COMPARED = {
    "monotone_epsilon": list(pairwise(("clean", "pgd_half", "pgd", "pgd_double", "pgd_large"))),
    "more_steps": [("pgd_few", "pgd")],
    "more_restarts": [("pgd_few", "pgd_restarts")],
    "more_queries": [("square_few", "square")],
    "one_step": [("fgsm", "pgd")],
    "black_box": [("square", "white_box")],
    "label_leak": [("clean", "fgsm")],
    "mask_gap_labels": [("fgsm_predicted", "fgsm"), ("step_ll", "fgsm"), ("r_fgsm", "fgsm")],
}
"""Per rule, conditions in pairs: the second should leave no more images right than the first."""


def _number(value: Tensor) -> float:
    """As a float that JSON can hold: what is not a number counts as the largest one."""
    return float(value.nan_to_num(nan=torch.finfo(torch.float32).max))
