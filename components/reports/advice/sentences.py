"""The advice in words, each sentence from intervals alone."""

from components.reports.advice.contents import Advice, AgainstFirst
from components.statistics.number_text import percent, points

NO_STUDENT = (
    "No student was given, so nothing is said of how attacks transfer, nor of unlearnable images: --student takes any "
    "network of the student's size, also one of a few epochs."
)
WHOSE = {
    "confident_student": "the student's attacked images",
    "confident_adversarial": "its own attacked images",
}


def sentences(found: Advice, most_common: float) -> list[str]:
    """The advice, the first place first.

    Args:
        found: the document; its own sentences are not read.
        most_common: the share of images of the most common class: what one answer for all gets right.
    """
    first, *others = found.order
    lines = [_against(found, first, other) for other in others]
    lines = lines or [_alone(found, first)]
    if weak := [name for name in found.order if not found.teachers[name].robust]:
        lines.append(
            f"Not robust: {', '.join(weak)}, whose worst case cannot be told from one answer for every image "
            f"({percent(most_common)} %)."
        )
    return [*lines, *([] if found.students else [NO_STUDENT])]


def _alone(found: Advice, name: str) -> str:
    teacher = found.teachers[name]
    worst, confident = teacher.measures["worst_case"], teacher.measures[found.decides]
    return (
        f"{name} keeps {percent(worst.value)} % of the images under attack (95 % interval {percent(worst.low)} to "
        f"{percent(worst.high)}, n = {worst.n}) and is confidently wrong on {percent(confident.value)} % of "
        f"{WHOSE[found.decides]}."
    )


def _against(found: Advice, first: str, other: str) -> str:
    """How two teachers stand to each other: robustness, then confident errors and what they cost."""
    apart, decides = found.teachers[other].against_first, found.decides
    robust, errors = apart["worst_case"], apart[decides]
    share = {name: percent(found.teachers[name].measures[decides].value) for name in (first, other)}
    joint, cost = f"and {first}", ""
    if not _tells(robust):
        head = (
            f"{first} and {other} cannot be told apart in robustness (difference {points(-robust.value)} points, 95 % "
            f"interval {points(-robust.high)} to {points(-robust.low)}, n = {robust.n})"
        )
    elif robust.value < 0:
        value, low, high = (percent(-bound) for bound in (robust.value, robust.high, robust.low))
        head = f"{first} is {value} points more robust than {other} (95 % interval {low} to {high}, n = {robust.n})"
        # A difference here is the other's minus the first's.
        loses = _tells(errors) and errors.value < 0
        joint, cost = f"{'but' if loses else 'and'} it", _cost(found, -errors.value) if loses else ""
    else:
        value, low, high = map(percent, (robust.value, robust.low, robust.high))
        head = f"{other} is {value} points more robust than {first} (95 % interval {low} to {high}, n = {robust.n})"
    tail = f"confidently wrong on {share[first]} % of {WHOSE[decides]} ({other}: {share[other]} %)"
    return f"{head}, {joint} is {tail}{cost}."


def _tells(difference: AgainstFirst) -> bool:
    return difference.low > 0 or difference.high < 0


def _cost(found: Advice, more_errors: float) -> str:
    """What so many more confident errors cost, where a calibration has a slope that leaves out 0."""
    slope = found.calibration.slopes.get(found.decides) if found.calibration else None
    if found.calibration is None or slope is None or slope.high >= 0:
        return ""
    value, low, high = (percent(-bound * more_errors) for bound in (slope.value, slope.high, slope.low))
    return (
        f", which cost students such as {found.calibration.student} about {value} points (95 % interval {low} to "
        f"{high}, from {found.calibration.num_teachers} teachers)"
    )
