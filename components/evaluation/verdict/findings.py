"""What each rule of the verdict makes of the evidence: comparisons of counts with bounds, and nothing else.

A rule is called as the function that tests it.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from components.statistics.intervals import mcnemar

# Of one paired, one-sided test; with about ten tests on a model that do not favour it anyway, false alarms stay rare.
ALPHA = 0.01
LEAST_IMAGES = 100
# Of an image's logits, relative to their size: repeats and other batches may change them by float rounding only.
ROUNDING = 1e-4
# Shares of the images.
NO_GRADIENT, MOST_WITHOUT_GRADIENT, STILL_RIGHT = 0.01, 0.5, 0.05
LEAK, LABEL_GAP, STEP_GAP, SQUARE_GAIN, PARITY, REFUTED = 0.01, 0.05, 0.15, 0.002, 0.02, 0.01
# Of the way that an attack must be able to go: the published PGD-20 of TRADES, 20 steps of 0.003 across a ball of 8/255
# from a random start, goes 0.956 of it.
REACH = 0.95
# Steps of an APGD, and the share of them that must climb for the step to stay as long, as in the standard attack.
APGD_STEPS, APGD_RHO = 100, 0.75
# Of the claimed radius; above it only float rounding is allowed.
USED, EXCEEDED = 0.9, 1 + 1e-4

Evidence = Mapping[str, Any]
CheckStatus = Literal["passed", "suspect", "broken", "not_measured"]


class Finding(NamedTuple):
    """What a rule made of the evidence, and the numbers it looked at."""

    status: CheckStatus
    measured: dict[str, Any]


def enough_images(evidence: Evidence) -> Finding:
    n = evidence["images"]
    return Finding("passed" if n >= LEAST_IMAGES else "suspect", {"images": n})


def pixel_range(evidence: Evidence) -> Finding:
    low, high = evidence["pixels"]["low"], evidence["pixels"]["high"]
    if not (low >= 0 and high <= 1):
        return Finding("broken", dict(evidence["pixels"]))
    return Finding("passed" if high > 1 / 8 else "suspect", dict(evidence["pixels"]))


def logits(evidence: Evidence) -> Finding:
    outputs, n, unanswered = evidence["outputs"], evidence["images"], evidence["unanswered"]
    measured = dict(outputs) | {"unanswered": unanswered}
    if not outputs["finite"] or unanswered or outputs["probabilities"] == n:
        return Finding("broken", measured)
    return Finding("suspect" if outputs["log_probabilities"] == n else "passed", measured)


def eval_mode(evidence: Evidence) -> Finding:
    training, moved = evidence["training"], evidence["moved_buffers"]
    measured = {"modules_in_training": training["modules"], "buffers_moved": moved["buffers"]}
    names = ", ".join([*training["names"], *moved["names"]])
    bad = any(measured.values())
    return Finding("broken" if bad else "passed", measured | ({"names": names} if bad else {}))


def deterministic(evidence: Evidence) -> Finding:
    return _unmoved(evidence["repeats"])


def batch_independence(evidence: Evidence) -> Finding:
    if deterministic(evidence).status != "passed":
        return Finding("not_measured", {})  # a change could come from either
    return _unmoved(evidence["batches"])


def _unmoved(repeats: Mapping[str, Any]) -> Finding:
    if repeats["difference"] <= ROUNDING:
        return Finding("passed", dict(repeats))
    return Finding("broken" if repeats["changed"] else "suspect", dict(repeats))


def zero_gradients(evidence: Evidence) -> Finding:
    found = evidence["zero_gradients"]
    share = max(found["margin"], found["cross_entropy"]) / max(1, found["right"])
    if not found["differentiable"] or share > MOST_WITHOUT_GRADIENT:
        return Finding("broken", dict(found) | {"share": share})
    return Finding("suspect" if share > NO_GRADIENT else "passed", dict(found) | {"share": share})


def epsilon_zero(evidence: Evidence) -> Finding:
    return Finding("broken" if evidence["epsilon_zero"]["changed"] else "passed", dict(evidence["epsilon_zero"]))


def large_epsilon(evidence: Evidence) -> Finding:
    left, n, constant = evidence["right"]["pgd_large"], evidence["images"], evidence["most_common"]
    classes = evidence["large_classes"]
    measured = {"accuracy": left / n, "constant_answer": constant / n, "classes_left": classes}
    if left > constant:
        return Finding("broken", measured)
    return Finding("suspect" if left > STILL_RIGHT * n else "passed", measured)


def _with_gain(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with its change of accuracy, and the one-sided p of a rise (1 where there is none)."""
    gained, lost = pair["gained"], pair["lost"]
    p = mcnemar(lost, gained) / 2 if gained > lost else 1.0
    return {**pair, "change": (gained - lost) / pair["n"], "p": p}


def _most_gained(evidence: Evidence, rule: str) -> dict[str, Any]:
    """Of a rule's pairs the one with the surest rise."""
    pairs = evidence["pairs"][rule]
    if not pairs:
        raise KeyError(rule)
    return min(map(_with_gain, pairs), key=lambda pair: (pair["p"], -pair["change"]))


def never_gains(rule: str) -> Callable[[Evidence], Finding]:
    """The test, called as the rule, that in none of its pairs accuracy rises beyond chance on paired images."""

    def find(evidence: Evidence) -> Finding:
        worst = _most_gained(evidence, rule)
        return Finding("suspect" if worst["p"] < ALPHA else "passed", worst)

    find.__name__ = rule
    return find


def constant_answer(evidence: Evidence) -> Finding:
    found = _with_gain(evidence["constant"])
    return Finding("passed" if found["p"] < ALPHA else "suspect", found)


def claim(evidence: Evidence) -> Finding:
    found = evidence["claim"]
    # No test of chance: an image that is said to withstand every attack, and falls to one, refutes its own claim.
    refuted = found["gained"] > max(1, REFUTED * found["n"])
    return Finding("suspect" if refuted else "passed", dict(found))


def reach(evidence: Evidence) -> Finding:
    attacks = [dict(found) | {"share": found["reach"] / found["wanted"]} for found in evidence["reach"]]
    if not attacks:
        return Finding("passed", {"attacks": 0})
    least = min(attacks, key=lambda found: found["share"])
    return Finding("passed" if least["share"] >= REACH else "suspect", least)


def standard_attack(evidence: Evidence) -> Finding:
    steps = [
        found["steps"]
        for found in evidence["apgd"]
        if found["loss"] in ("cross_entropy", "targeted_dlr")
        and found["rho"] == APGD_RHO
        and found["targets"] >= (found["wanted_targets"] if found["loss"] == "targeted_dlr" else 0)
    ]
    longest = max(steps, default=0)
    return Finding("passed" if longest >= APGD_STEPS else "suspect", {"apgd_steps": longest})


def budget_used(evidence: Evidence) -> Finding:
    attacks = [dict(found) | {"share": found["largest"] / found["epsilon"]} for found in evidence["budget"]]
    # Saved images can only say too much: where nothing fell, they are the clean ones.
    for found in [*attacks, *_saved(evidence)]:
        if not found["share"] <= EXCEEDED:
            return Finding("broken", found)
    least = min(attacks, key=lambda found: found["share"])
    return Finding("passed" if least["share"] >= USED else "suspect", least)


def _saved(evidence: Evidence) -> list[dict[str, Any]]:
    """The budget of the adversarial images that were saved, if that was measured."""
    if "largest" not in evidence.get("rescored", {}) or "threat" not in evidence:
        return []
    largest, epsilon = evidence["rescored"]["largest"], float(Fraction(evidence["threat"]["epsilon"]))
    return [{"attack": "saved images", "largest": largest, "epsilon": epsilon, "share": largest / epsilon}]


def label_leak(evidence: Evidence) -> Finding:
    worst, right, n = _most_gained(evidence, "label_leak"), evidence["right"], evidence["images"]
    # One step that changes next to nothing is a leak only where many steps show that something could be changed.
    empty = worst["change"] > -LEAK and right["fgsm"] - right["pgd"] > LABEL_GAP * n
    return Finding("suspect" if empty or worst["p"] < ALPHA else "passed", worst | {"pgd": right["pgd"]})


def mask_gap_labels(evidence: Evidence) -> Finding:
    worst, right = _most_gained(evidence, "mask_gap_labels"), evidence["right"]
    holds = 2 * right["fgsm"] >= right["clean"]
    bad = holds and worst["change"] > LABEL_GAP and worst["p"] < ALPHA
    return Finding("suspect" if bad else "passed", worst)


def mask_gap_steps(evidence: Evidence) -> Finding:
    right, n = evidence["right"], evidence["images"]
    shares = {name: right[name] / n for name in ("clean", "fgsm", "pgd_half", "pgd")}
    gap = (right["fgsm"] - right["pgd"]) / n
    holds = 2 * right["fgsm"] >= right["clean"] and right["fgsm"] > right["pgd_half"]
    return Finding("suspect" if holds and gap > STEP_GAP else "passed", shares | {"gap": gap})


def rescored(evidence: Evidence) -> Finding:
    found = evidence["rescored"]
    off = found["claimed"] - found["fooled"]
    if found["dtype"] == "float32" or off < 0:
        return Finding("passed" if abs(off) <= found["undecided"] else "broken", dict(found))
    # Rounded to 8 bits, an image at the very boundary may fall back.
    return Finding("passed" if off <= PARITY * found["n"] else "suspect", dict(found))


def square_helps(evidence: Evidence) -> Finding:
    found = evidence["square_helps"]
    # Two images of a small set are chance; from 1,000 images on this is the reference's 0.2 points.
    helps = found["before"] - found["after"] > max(2, SQUARE_GAIN * found["n"])
    return Finding("suspect" if helps else "passed", dict(found))


def parity(evidence: Evidence) -> Finding:
    found = evidence["parity"]
    allowed = PARITY * found["n"]
    good = found["n"] - found["agree"] <= allowed and found["only_exact"] - found["only_search"] <= allowed
    return Finding("passed" if good else "suspect", dict(found))
