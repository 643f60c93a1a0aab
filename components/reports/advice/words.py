"""How an advice says what was measured, and how teachers are ordered by it."""

from components.evaluation.advice.document import MeasureName
from components.reports.advice.contents import Advice
from components.reports.measure_words import TITLES, attacked_by, confidently_wrong, written


def shown(found: Advice) -> list[MeasureName]:
    """The measures that some teacher has, in their order."""
    return [name for name in TITLES if any(name in teacher.measures for teacher in found.teachers.values())]


def number(found: Advice, teacher: str, measure: MeasureName, key: str = "value") -> str:
    """A measure of a teacher, or a bound of its interval: percent with a digit, or nats with two; a dash for none."""
    measured = found.teachers[teacher].measures.get(measure)
    if measured is None:
        return "\u2013"
    return written(measure, getattr(measured, key))


def rule(found: Advice) -> str:
    """How the teachers are ordered."""
    whose = "the student's" if found.decides == "confident_student" else "their own"
    return (
        "Order: by worst-case accuracy; teachers that it does not tell from the best of their group, by fewer "
        f"confident errors on {whose} attacked images."
    )


def setting(found: Advice) -> list[str]:
    """On what and by what it was measured, a sentence each."""
    several = "" if len(found.students) < 2 else f" The first of {len(found.students)} students was attacked."
    unlearnable = "" if found.unlearnable is None else f" {found.unlearnable} images are unlearnable so far."
    return [
        attacked_by((found.crafting, *found.cascade.values())),
        f"{confidently_wrong(found.confident)}{several}{unlearnable}",
        "Intervals: 95 %; of entropies and differences, the paired bootstrap over images.",
    ]
