"""The cascades that have a name: which attacks run one after another, as entries of params.yaml."""

from typing import Any

from components.evaluation.few_classes import OWN
from components.foundation.errors import InputError
from components.threats.parts.norm import Norm

NAMES = ("autoattack", "quick", "none")
# How many wrong classes FAB-T tries, or all of them where there are fewer.
TARGETS = 9


def specs(name: str, num_classes: int, norm: Norm) -> dict[str, dict[str, Any]]:
    """The attacks of a cascade in the order in which they run, name -> fields.

    `autoattack` is the standard four with their standard settings (Croce & Hein, arXiv 2003.01690, section 5; for L1
    arXiv 2103.01208). `quick` is the first two of them, `none` has no attack. Errors: another name; fewer than 4
    classes, too few for the targeted loss; a norm in which AutoAttack is not defined.
    """
    if name not in NAMES:
        raise InputError(f"cascade: got {name!r}, want one of {', '.join(NAMES)}, or attacks of your own")
    if name == "none":
        return {}
    if num_classes < 4:
        raise InputError(f"cascade {name}: got {num_classes} classes, want at least 4 (choose none, or {OWN})")
    if norm.standard is None:
        raise InputError(f"cascade {name}: got norm {norm.name}, want none or attacks of your own (not defined in it)")
    apgd = {"name": "apgd", "steps": 100, "rho": 0.75}
    targets = min(norm.standard.targets, num_classes - 1)
    first_two = {
        "apgd_ce": apgd | {"restarts": norm.standard.restarts, "loss": "cross_entropy", "targets": 0},
        "apgd_t": apgd | {"restarts": 1, "loss": "targeted_dlr", "targets": targets},
    }
    if name == "quick":
        return first_two
    targets = min(TARGETS, num_classes - 1)
    fab = {"name": "fab", "steps": 100, "targets": targets, "restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
    square = {"name": "square", "queries": 5000, "p_init": 0.8, "restarts": 1, "loss": "margin"}
    return first_two | {"fab_t": fab, "square": square}
