"""The first things that a reader is told: may the model go live, why, and how far its numbers can be believed."""

from collections.abc import Iterator

from components.evaluation.criteria import Condition
from components.reports import wording
from components.reports.robustness.contents import AgainstTeacher, ClassRates, Report
from components.reports.robustness.document import failed, status, subject
from components.reports.wording import sentence, title
from components.statistics.intervals import CONFIDENCE
from components.statistics.number_text import bounds, p_text, percent, points, undecided

WHERE: dict[Condition, str] = {"clean": "on clean images", "worst_case": "in the worst case"}
MEASUREMENT = {
    "trusted": "no check found a reason to doubt the numbers",
    "suspect": "the numbers may be too high",
    "broken": "the numbers cannot be right",
}

# The models of the pipeline; others have names of their own.
OWN = ("clean_teacher", "robust_teacher", "student")


def summary(document: Report) -> list[str]:
    """At most three sentences: what the model does, whether it meets its criteria, what it loses against its teachers.

    Where nothing was written down to decide by, or no teacher was evaluated, the sentence says so or is left out.
    """
    me = subject(document)
    return [_does(document, me), _meets(document), *_loses(document)]


def weakest_class(document: Report) -> ClassRates | None:
    """The class of the report's subject with the lowest worst-case accuracy."""
    rows = [(row.worst_case.value, row) for row in document.models[subject(document)].per_class if row.worst_case]
    return min(rows, key=lambda pair: pair[0])[1] if rows else None


def weakest_text(document: Report) -> str:
    """That class with its rate and interval; empty where nothing was attacked."""
    row = weakest_class(document)
    if row is None or row.worst_case is None:
        return ""
    rate = row.worst_case
    return f"“{row.class_}”, {percent(rate.value)} % right in the worst case ({bounds(rate)} %, n = {rate.n})"


def left_out(document: Report) -> list[str]:
    """A sentence for each split that a limit cut: `A limit left out 8000 of 10000 test images.`"""
    cut = document.data.get("left_out", {})
    return [f"A limit left out {found['images']} of {found['of']} {split} images." for split, found in cut.items()]


def measurement(document: Report, name: str) -> str:
    """What the verdict on a model's numbers means: `no check found a reason to doubt the numbers`."""
    return MEASUREMENT.get(status(document, name), "nothing checked the numbers")


def verdict_text(document: Report, name: str) -> str:
    """The verdict on one model in a few words: `suspect (square stronger)`."""
    rules = ", ".join(wording.rule_title(check.rule) for check in failed(document, name))
    return title(status(document, name)) + (f" ({rules})" if rules else "")


def _does(document: Report, me: str) -> str:
    model, threat = document.models[me], document.threat
    subject = f"The {title(me)}" if me in OWN else f"The model {me}"
    begins = f"{subject} gets {percent(model.clean.value)} % of {document.num_images} test images right"
    if model.worst_case is None:
        return f"{begins}; it was not attacked."
    size = f"{wording.NORM_WORDS[threat.norm].title} ε = {wording.epsilon_text(threat.epsilon)}"
    return f"{begins}, and {percent(model.worst_case.value)} % when every attack with {size} is tried on them."


def _meets(document: Report) -> str:
    decision = document.decision
    if decision is None:
        return "No criteria were written down, so nothing here says whether it may go live."
    if decision.model not in document.models:
        return f"The {title(decision.model)}, which the criteria are about, was not evaluated."
    asked, unmet = len(decision.criteria), decision.unmet
    if not unmet:
        more = "; promotion asks one more, about the champion" if decision.champion else ""
        return f"It meets all {asked} written criteria{more}."
    names = "; ".join(criterion.name for criterion in unmet)
    return f"It does not meet {len(unmet)} of the {asked} written criteria: {names}."


def _loses(document: Report) -> Iterator[str]:
    said = [_against(condition, found) for condition, found in document.against.items()]
    if said:
        yield sentence("; ".join(said)) + "."


def _against(condition: Condition, pair: AgainstTeacher) -> str:
    where, teacher = WHERE[condition], title(pair.teacher)
    if pair.p >= 1 - CONFIDENCE:
        how_sure = f"{points(pair.low)} to {points(pair.high)}, {p_text(pair.p)}{undecided(pair.low, pair.high)}"
        return f"{where} no difference to the {teacher} can be told ({points(pair.value)} points, {how_sure})"
    low, high = sorted((abs(pair.low), abs(pair.high)))
    interval = f"{percent(low)} to {percent(high)}, {p_text(pair.p)}"
    verb, preposition = ("loses", "to") if pair.value < 0 else ("gains", "over")
    return f"{where} it {verb} {percent(abs(pair.value))} points {preposition} the {teacher} ({interval})"
