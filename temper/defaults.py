"""What the Python API takes where nothing is said: fields of attacks and methods, budgets of an evaluation.

Where a paper published a value, it is that one. `params.yaml` reads none of this: there every number is written down.
"""

from collections.abc import Mapping
from typing import Any

from components.evaluation.cascades import TARGETS, specs
from components.foundation.errors import InputError, choose
from components.foundation.params import Ratio
from components.threats.parts.threat import Threat

Spec = dict[str, Any]

BUDGETS = ("quick", "standard", "full")
"""`quick`: FGSM and PGD, a first look that is never `trusted`. `standard`: also APGD on cross-entropy and on the
targeted loss, or, with two or three classes, Square. `full`: also AutoAttack, or, with two or three classes, FAB and
Square."""

# The targeted loss of APGD needs that many.
FEW_CLASSES = 4


def attack_fields(threat: Threat) -> dict[str, Spec]:
    """The fields of every attack at this threat model."""
    step = {"step_size": str(Ratio(threat.epsilon / 4))}
    pgd = {"steps": 20, **step, "start": "uniform", "loss": "cross_entropy", "restarts": 1}
    return {
        "apgd": {"steps": 100, "restarts": 1, "loss": "cross_entropy", "rho": 0.75},
        "bim": {},
        "cw": {"steps": 30, **step, "confidence": 50},
        "eot": {"samples": 10, "attack": {"name": "pgd", **pgd}},
        "fab": {"steps": 100, "targets": TARGETS, "restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9},
        "fgsm": {},
        "iter_ll": {},
        "mi_fgsm": {"steps": 10, "step_size": str(Ratio(threat.epsilon / 10)), "decay": 1},
        "pgd": pgd,
        "r_fgsm": {},
        "square": {"queries": 5000, "p_init": 0.8, "restarts": 1, "loss": "margin"},
        "step_ll": {},
        "step_rnd": {},
    }


def method_fields(threat: Threat, epochs: int) -> dict[str, Spec]:
    """The fields of every training method at this threat model, for a run of `epochs`."""
    epsilon, quarter = str(threat.epsilon), str(Ratio(threat.epsilon / 4))
    climb = {"steps": 10, "step_size": quarter, "start": "uniform"}
    attack = {**climb, "loss": "cross_entropy", "restarts": 1}
    divergence = attack | {"start": "gaussian", "loss": "kl"}
    plain = {"label_smoothing": 0}
    one_step = {"step_size": epsilon, **plain, "batch_norm": "train"}
    mix = {"attack": "step_ll", "adversarial": "1/2", "weight": 0.3, "epsilon_sigma": str(Ratio(threat.epsilon / 2))}
    annealed = {"temperature_from": 2.5, "temperature_to": 2, "weight_from": 0.7, "weight_to": 0.95, "decay": 0.995}
    guided = {"temperature": 4, "alpha": 0.5, "beta": 3, "rectify": True}
    return {
        "standard": plain,
        "pgd_at": {"attack": attack, **plain},
        "trades": {"beta": 6, **climb, "start": "gaussian", **plain},
        "fgsm_rs": one_step | {"step_size": str(Ratio(threat.epsilon * 5 / 4)), "noise": 1},
        "n_fgsm": one_step | {"noise": 2},
        "free_at": {"replays": 8, **plain},
        "gradalign": one_step | {"weight": 0.2},
        "fgsm_mep": one_step | {"momentum": 0.3, "reset_every": 40, "weight": 10, "align": True, "craft": "smoothed"},
        "mixed": {"mix": mix, "delay": 0, **plain},
        "ensemble_at": {"mix": mix | {"weight": 1}, "delay": 0, **plain},
        "mart": {"attack": attack | {"start": "gaussian"}, "beta": 5},
        "lbgat": {"attack": divergence, "beta": 6, "reduction": "class_mean", "companion": "random"},
        "hat": {"attack": divergence, "beta": 2.5, "gamma": 0.5, "reach": 2},
        "cktat": {"attack": attack, **guided, "lower_difficulty": True, "correct_guidance": True},
        "adr": {**climb, **annealed, "epochs": epochs},
    }


def filled(given: str | Mapping[str, Any], fields: Mapping[str, Spec], where: str) -> Spec:
    """A member's mapping as params.yaml has it: the name, the fields that were named, defaults for the rest."""
    told = {"name": given} if isinstance(given, str) else dict(given)
    return {**choose(fields, told.get("name"), f"{where}.name"), **told}


def budget_attacks(budget: str, threat: Threat, num_classes: int) -> tuple[dict[str, Spec], str | dict[str, Spec]]:
    """The attacks of a budget on every image, and its cascade, a name or attacks. Error: another name."""
    if budget not in BUDGETS:
        raise InputError(f"budget: unknown {budget!r} (allowed: {', '.join(BUDGETS)})")
    fields = attack_fields(threat)
    attacks = {name: filled(name, fields, "attacks") for name in ("fgsm", "pgd")}
    cascade = {"quick": "none", "standard": "quick", "full": "autoattack"}[budget]
    if cascade == "none" or num_classes >= FEW_CLASSES:
        return attacks, cascade
    standard = specs(cascade, FEW_CLASSES, threat.norm)
    kept = {"apgd_ce": standard["apgd_ce"]}
    if budget == "full":
        kept["fab_t"] = standard["fab_t"] | {"targets": max(1, num_classes - 1)}
    return attacks, kept | {"square": filled("square", fields, "cascade")}
