"""May a model go live? Criteria that are written down before, and what the outcomes say of each: GO or NO-GO.

The verdict says whether the numbers can be believed; this says whether they are good enough. What could not be
measured is not met.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from torch import Tensor

from components.foundation.params import Share, strict
from components.statistics.class_balance import balanced
from components.statistics.documents import Document
from components.statistics.intervals import CONFIDENCE, paired
from components.statistics.number_text import p_text, percent, points
from components.statistics.outcomes import Interval, Outcomes, by_class, share

Condition = Literal["clean", "worst_case"]
NAMES: dict[Condition, str] = {"clean": "clean accuracy", "worst_case": "worst case"}
MEASUREMENT = "measurement"
NOT_WORSE = "not significantly worse on the same images"
NOT_MEASURED = "not measured"


@strict
class NotWorseThan:
    """Models that a model must not be worse than, image by image; null asks for nothing.

    Without a margin, worse means significantly worse: with few images, no difference may only mean that none can be
    told.
    """

    clean: str | None  # A model to compare with on clean images.
    worst_case: str | None  # A model to compare with in the worst case.
    margin: Share | None = None  # Largest loss that the 95 % interval of the difference may hold; null: significance.


@strict
class Criteria:
    """What a model must reach before it goes live: report and promotion decide by it (docs/decision.md).

    A floor is for the lower end of the 95 % interval; null asks for nothing.
    """

    model: str  # The model that is decided on.
    clean: Share | None  # Least accuracy on clean images.
    worst_case: Share | None  # Least accuracy in the worst case over all attacks.
    weakest_class: Share | None  # Least worst-case accuracy of the class that fares worst.
    not_worse_than: NotWorseThan  # Models that it must not be significantly worse than.
    champion: bool  # Whether it must not be worse than the registered model that it would replace; asked by promote.


class Criterion(Document):
    """One thing that was asked for."""

    name: str
    """What it is about."""
    wanted: str
    """What was asked for."""
    measured: str
    """What was measured."""
    met: bool
    """Whether that is enough."""


class Decision(Document):
    """Whether a model may go live."""

    model: str
    """The model that is decided on."""
    answer: Literal["GO", "NO-GO"]
    """GO where every criterion is met."""
    criteria: list[Criterion]
    """What was asked for, in the order of a page."""
    champion: bool
    """Whether promotion asks for more: not to be worse than the registered model that it would replace."""

    @property
    def unmet(self) -> list[Criterion]:
        """The criteria because of which the answer is NO-GO."""
        return [criterion for criterion in self.criteria if not criterion.met]


def decide(criteria: Criteria, verdict: str, outcomes: Outcomes, classes: Sequence[str]) -> Decision:
    """The decision on `criteria.model`, from the verdict on it and the outcomes of all models.

    Args:
        criteria: what was asked for.
        verdict: trusted, or another word.
        outcomes: `labels`, and per model `MODEL/clean` and `MODEL/worst_case`, [n]; what is absent was not measured.
        classes: the names of the classes, by number.
    """
    asked = [
        Criterion(name=MEASUREMENT, wanted="trusted", measured=verdict, met=verdict == "trusted"),
        _robust_at_all(criteria.model, outcomes),
        *_floors(criteria, outcomes, classes),
        *_teachers(criteria, outcomes),
    ]
    answer = "GO" if all(criterion.met for criterion in asked) else "NO-GO"
    return Decision(model=criteria.model, answer=answer, criteria=asked, champion=criteria.champion)


def not_worse(
    condition: Condition, other: str, theirs: Tensor | None, own: Tensor | None, margin: float | None = None
) -> Criterion:
    """That a model's outcomes [n] are not worse than those of the model `other` on the same images.

    Without a margin: not significantly; with one, surely by no more than it (non-inferiority).
    """
    name = f"{NAMES[condition]} against {other}"
    wanted = NOT_WORSE if margin is None else f"surely at most {percent(margin)} points worse on the same images"
    if theirs is None or own is None:
        return Criterion(name=name, wanted=wanted, measured=NOT_MEASURED, met=False)
    pair = paired(theirs, own)
    measured = f"{points(pair.value)} points ({points(pair.low)} to {points(pair.high)}, {p_text(pair.p)})"
    worse = pair.value < 0 and pair.p < 1 - CONFIDENCE if margin is None else pair.low < -margin
    return Criterion(name=name, wanted=wanted, measured=measured, met=not worse)


def _robust_at_all(model: str, outcomes: Outcomes) -> Criterion:
    """A worst case that any constant answer has too is no robustness, however well it is measured."""
    classes, own = int(outcomes["labels"].bincount().count_nonzero()), outcomes.get(f"{model}/worst_case")
    name, wanted = "robust at all", f"classes alike, surely above {percent(1 / classes)} %, which a constant answer has"
    if own is None:
        return Criterion(name=name, wanted=wanted, measured=NOT_MEASURED, met=False)
    rate = balanced(own, outcomes["labels"])
    return Criterion(name=name, wanted=wanted, measured=_told(rate, rate.n), met=rate.low > 1 / classes)


def _floors(criteria: Criteria, outcomes: Outcomes, classes: Sequence[str]) -> Iterator[Criterion]:
    for condition in get_args(Condition):
        yield from _floor(NAMES[condition], getattr(criteria, condition), outcomes.get(f"{criteria.model}/{condition}"))
    worst_case, name, mine = outcomes.get(f"{criteria.model}/worst_case"), "weakest class", None
    if worst_case is not None:
        own = {name: worst_case[mask] for name, mask in by_class(classes, outcomes["labels"]).items()}
        weakest = min(own, key=lambda name: share(own[name]).value)
        name, mine = f"weakest class “{weakest}”", own[weakest]
    yield from _floor(name, criteria.weakest_class, mine)


def _floor(name: str, least: float | None, outcome: Tensor | None) -> Iterator[Criterion]:
    if least is None:
        return
    wanted = f"surely at least {percent(least)} %"
    if outcome is None:
        yield Criterion(name=name, wanted=wanted, measured=NOT_MEASURED, met=False)
    else:
        # Not rounded: an interval that ends a hair below does not pass.
        rate = share(outcome, float)
        yield Criterion(name=name, wanted=wanted, measured=_told(rate, rate.n), met=rate.low >= least)


def _teachers(criteria: Criteria, outcomes: Outcomes) -> Iterator[Criterion]:
    for condition in get_args(Condition):
        if (other := getattr(criteria.not_worse_than, condition)) is not None:
            theirs, own = (outcomes.get(f"{model}/{condition}") for model in (other, criteria.model))
            yield not_worse(condition, other.replace("_", " "), theirs, own, criteria.not_worse_than.margin)


def _told(rate: Interval[float], n: int) -> str:
    return f"{percent(rate.value)} % ({percent(rate.low)} to {percent(rate.high)} %, n = {n})"
