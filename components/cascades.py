"""The cascades that have a name: which attacks run one after another, as entries of params.yaml."""

from typing import Any

from components.errors import InputError

# Targeted attacks try so many wrong classes, or all where there are fewer.
TARGETS = 9


def autoattack(num_classes: int) -> dict[str, dict[str, Any]]:
    """AutoAttack's standard four with their standard settings (Croce & Hein, arXiv 2003.01690, section 5).

    Name -> the fields of an attack, the same for both norms, in the order in which they run. Errors: fewer than 4
    classes, for which the standard cascade is not defined.
    """
    targets = min(TARGETS, num_classes - 1)
    return quick(num_classes) | {
        "fab_t": {"name": "fab", "steps": 100, "restarts": 1, "targets": targets},
        "square": {"name": "square", "queries": 5000, "restarts": 1, "p_init": 0.8, "loss": "margin"},
    }


def quick(num_classes: int) -> dict[str, dict[str, Any]]:
    """The first two of the four, which find nearly everything the four find; never to be called AutoAttack."""
    if num_classes < 4:
        raise InputError(
            f"cascade: got {num_classes} classes, want at least 4 for the targeted loss (name the attacks yourself)"
        )
    targets = min(TARGETS, num_classes - 1)
    apgd = {"name": "apgd", "steps": 100, "restarts": 1, "rho": 0.75}
    return {
        "apgd_ce": apgd | {"loss": "cross_entropy", "targets": 0},
        "apgd_t": apgd | {"loss": "targeted_dlr", "targets": targets},
    }
