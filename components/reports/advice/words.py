"""What the measures are called, and what each means."""

from components.evaluation.advice.document import MeasureName
from components.reports.advice.contents import Advice
from components.reports.attack_words import attack_text

TITLES: dict[MeasureName, str] = {
    "clean": "accuracy, clean, %",
    "worst_case": "accuracy, worst case, %",
    "confident_clean": "confidently wrong, clean, %",
    "confident_adversarial": "confidently wrong, own attacked, %",
    "confident_student": "confidently wrong, student's attacked, %",
    "tas": "transferable samples (TAS), %",
    "to_student": "its attack fools the student, %",
    "to_teacher": "the student's attack fools it, %",
    "entropy_clean": "entropy, clean, nats",
    "entropy_adversarial": "entropy, own attacked, nats",
    "entropy_unlearnable": "entropy, unlearnable images, nats",
}
"""In the order in which they are shown."""

MEANINGS: dict[MeasureName, str] = {
    "clean": "right without an attack",
    "worst_case": "right clean and under every attack",
    "confident_clean": "a wrong class has more than the threshold's probability, on the images themselves",
    "confident_adversarial": "the same on what the crafting attack made of the images for this teacher",
    "confident_student": "the same on what it made of them for the student: what the student would be taught there",
    "tas": "transferable adversarial samples (SAAD, arXiv 2512.10275, equation 7): what was made for the student moves "
    "the teacher's answer nearer to its answer under an attack of its own than to its clean answer",
    "to_student": "of the images that the student knows clean, those on which what was made for the teacher fools it",
    "to_teacher": "of the images that the teacher knows clean, those on which what was made for the student fools it",
    "entropy_clean": "mean predictive entropy on the images themselves",
    "entropy_adversarial": "mean predictive entropy on its own attacked images",
    "entropy_unlearnable": "mean predictive entropy on the images that no given student has right under attack ("
    "robustly unlearnable so far; Lee & Chung, arXiv 2605.21999)",
}


def shown(found: Advice) -> list[MeasureName]:
    """The measures that some teacher has, in their order."""
    return [name for name in TITLES if any(name in teacher.measures for teacher in found.teachers.values())]


def number(found: Advice, teacher: str, measure: MeasureName, key: str = "value") -> str:
    """A measure of a teacher, or a bound of its interval: percent with a digit, or nats with two; a dash for none."""
    measured = found.teachers[teacher].measures.get(measure)
    if measured is None:
        return "\u2013"
    value: float = getattr(measured, key)
    return f"{value:.2f}" if measure.startswith("entropy") else f"{100 * value:.1f}"


def rule(found: Advice) -> str:
    """How the teachers are ordered."""
    whose = "the student's" if found.decides == "confident_student" else "their own"
    return (
        "Order: by worst-case accuracy; teachers that it does not tell from the best of their group, by fewer "
        f"confident errors on {whose} attacked images."
    )


def setting(found: Advice) -> list[str]:
    """On what and by what it was measured, a sentence each."""
    attacks = map(attack_text, (found.crafting, *found.cascade.values()))
    several = "" if len(found.students) < 2 else f" The first of {len(found.students)} students was attacked."
    unlearnable = "" if found.unlearnable is None else f" {found.unlearnable} images are unlearnable so far."
    return [
        f"Attacked images come from the first of these attacks, worst cases from all: {'; '.join(attacks)}.",
        f"Confidently wrong: a wrong class with a probability above {found.confident:g}.{several}{unlearnable}",
        "Intervals: 95 %; of entropies and differences, the paired bootstrap over images.",
    ]
