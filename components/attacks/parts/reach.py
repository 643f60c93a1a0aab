"""How far an attack of steps of one size can go, beside how far it must be able to go."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from components.threats.parts.threat import Threat

ENOUGH = 0.95
"""The least share of the way that counts as reaching, as for the verdict's rule `reach`."""


class Way(NamedTuple):
    """The length of all steps together, and the length that is needed, both in the threat's norm."""

    reach: float
    wanted: float


def way(attack: Any, threat: Threat) -> Way | None:
    """From the image to the boundary of the ball, from a random start across it; None without steps of one size."""
    steps, size = getattr(attack, "steps", None), getattr(attack, "step_size", None)
    if steps is None or size is None:
        return None
    return Way(steps * float(size), (2 if getattr(attack, "start", "") == "uniform" else 1) * threat.radius)


def shortfalls(named: Mapping[str, Any], threat: Threat) -> Iterator[str]:
    """A line for each attack that cannot reach the edge of the ball; `named` are attacks, or what holds some."""
    for name, value in named.items():
        found = way(value, threat)
        if found is not None and found.reach < ENOUGH * found.wanted:
            start = ", from a random start" if getattr(value, "start", "") == "uniform" else ""
            yield (
                f"{name}: {value.steps} steps of {value.step_size} go {found.reach:.4g}, want {found.wanted:.4g} to "
                f"reach the edge (epsilon {threat.epsilon}{start})"
            )
        if is_dataclass(value):
            yield from shortfalls({f"{name}.{one.name}": getattr(value, one.name) for one in fields(value)}, threat)
