"""What the measures of teachers are called, what each means, and how its number is written."""

from collections.abc import Iterable

from components.evaluation.advice.document import ENTROPIES, MeasureName
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

DIRECTIONS: dict[MeasureName, str] = {
    "clean": "more is better",
    "worst_case": "more is better",
    "confident_clean": "less is better",
    "confident_adversarial": "less is better",
    "confident_student": "less is better",
    "tas": "more is better",
}
"""Which way a teacher's measure is good for its student; of the others neither way is."""

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


def written(measure: str, value: float) -> str:
    """A measure's value, or a bound of its interval: percent with a digit, or nats with two."""
    return f"{value:.2f}" if measure in ENTROPIES else f"{100 * value:.1f}"


def attacked_by(attacks: Iterable[str]) -> str:
    """A sentence on the crafting attack and those after it, each as its settings."""
    said = "; ".join(map(attack_text, attacks))
    return f"Attacked images come from the first of these attacks, worst cases from all: {said}."


def confidently_wrong(threshold: float) -> str:
    """A sentence on what is called so."""
    return f"Confidently wrong: a wrong class with a probability above {threshold:g}."
