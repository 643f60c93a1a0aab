"""What a report says of the teachers that its student had."""

import math
from typing import Any

from components.evaluation.advice.document import MeasureName, RoleMeasured, Teaching
from components.reports.attack_words import attack_text
from components.reports.measure_words import DIRECTIONS, MEANINGS, TITLES, attacked_by, confidently_wrong, written
from components.reports.wording import title
from components.statistics.number_text import RANGE, percent

# The role that the sentences are about, where somebody has it: it teaches about attacked images.
FIRST = "robust_teacher"
Cell = tuple[str, str]


def context(taught: Teaching, num_classes: int) -> dict[str, Any]:
    """What the section's template needs."""
    return {
        "roles": {role: one.teachers for role, one in taught.roles.items()},
        "others": [role for role, one in taught.roles.items() if one.teachers != [role]],
        "together": any(len(one.teachers) > 1 for one in taught.roles.values()),
        "rows": {measure: _row(taught, measure) for measure in shown(taught)},
        "titles": TITLES,
        "directions": DIRECTIONS,
        "meanings": MEANINGS,
        "sentences": sentences(taught, num_classes),
        "setting": [attacked_by((taught.crafting, *taught.cascade.values())), confidently_wrong(taught.confident)],
        "num_images": taught.num_images,
    }


def shown(taught: Teaching) -> list[MeasureName]:
    """The measures that some role has, in their order."""
    return [name for name in TITLES if any(name in one.measures for one in taught.roles.values())]


def _row(taught: Teaching, measure: MeasureName) -> list[Cell | None]:
    """Of each role the value and its interval; none for what was not measured."""
    return [_cell(one, measure) for one in taught.roles.values()]


def _cell(one: RoleMeasured, measure: MeasureName) -> Cell | None:
    if (found := one.measures.get(measure)) is None:
        return None
    value, low, high = (written(measure, number) for number in (found.value, found.low, found.high))
    return value, f"{low}{RANGE}{high}"


def sentences(taught: Teaching, num_classes: int) -> list[str]:
    """How often the robust teacher is sure and wrong, and how sure it is where the student fails."""
    role = FIRST if FIRST in taught.roles else next(iter(taught.roles))
    return [*_confident(taught, role), *_unlearnable(taught, role, num_classes)]


def _confident(taught: Teaching, role: str) -> list[str]:
    found = taught.roles[role].measures.get("confident_student")
    if found is None:
        return []
    return [
        f"The {title(role)} is confidently wrong on {percent(found.value)} % of the student's attacked images (95 % "
        f"interval {percent(found.low)} to {percent(found.high)}, n = {found.n})."
    ]


def _unlearnable(taught: Teaching, role: str, num_classes: int) -> list[str]:
    wrong = f"{taught.unlearnable} of {taught.num_images} validation images"
    # Not the worst case: images that the others would break are not looked for.
    attack = attack_text(taught.crafting).partition(":")[0]
    measures = taught.roles[role].measures
    there, everywhere = (measures.get(name) for name in ("entropy_unlearnable", "entropy_clean"))
    if there is None or everywhere is None:
        return [f"Under {attack} alone the student gets {wrong} wrong."] if taught.unlearnable else []
    entropy, low, high, all_of_them = (
        written("entropy_unlearnable", value) for value in (there.value, there.low, there.high, everywhere.value)
    )
    uniform = f"Equal probabilities for all {num_classes} classes would be {math.log(num_classes):.2f}."
    return [
        f"Under {attack} alone the student gets {wrong} wrong, which are called unlearnable here. The "
        f"{title(role)}'s mean entropy on these, clean, is {entropy} nats (95 % interval {low} to {high}); on all "
        f"of the images it is {all_of_them}. {uniform}"
    ]
