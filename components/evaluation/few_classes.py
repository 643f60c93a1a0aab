"""What of an evaluation needs more classes than a data set has, known before anything is trained."""

from collections.abc import Iterator, Mapping
from typing import Any

from components.foundation.errors import InputError
from components.foundation.params import is_mapping

# The logits that a loss compares: `losses.dlr`, `losses.targeted_dlr`.
DLR, TARGETED_DLR = 3, 4
TARGETED_AIMS = ("least_likely", "random")
NAMED = ("autoattack", "quick")
"""The cascades that contain the targeted loss."""
OWN = "{square: {name: square, queries: 5000, p_init: 0.8, restarts: 1, loss: margin}}"
"""A cascade for any number of classes, as it can be typed."""


def require_classes(evaluation: Mapping[str, Any], num_classes: int, data: str) -> None:
    """Returns if `data` has enough classes for the section `evaluate_attacks`, raw. Error: the first need in it."""
    for key, what, least in _needs(evaluation, "evaluate_attacks"):
        if num_classes < least:
            remedy = f"attacks of your own, such as {OWN}," if what in NAMED else "cross_entropy"
            raise InputError(
                f"{data}: {num_classes} classes, but {key}: {what} needs at least {least} (want {remedy} there)"
            )


def _needs(block: Mapping[str, Any], where: str) -> Iterator[tuple[str, str, int]]:
    """Each key whose value needs a number of classes: where it is, the value, the number."""
    for key, value in block.items():
        here = f"{where}.{key}"
        if is_mapping(value):
            yield from _needs(value, here)
        elif key == "cascade" and value in NAMED:
            yield here, value, TARGETED_DLR
        elif key == "loss" and value in ("dlr", "targeted_dlr"):
            targeted = value == "targeted_dlr" or block.get("aim") in TARGETED_AIMS
            yield here, value, TARGETED_DLR if targeted else DLR
