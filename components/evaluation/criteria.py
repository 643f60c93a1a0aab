"""May a model go live? Criteria that are written down before, and what the outcomes say of each: GO or NO-GO.

The verdict says whether the numbers can be believed; this says whether they are good enough. A criterion that could
not be measured is not met.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from components.foundation.errors import InputError
from components.foundation.params import STRICT, Real
from components.statistics.documents import Document
from components.statistics.intervals import paired
from components.statistics.outcomes import Outcomes, Rate, share

Condition = Literal["clean", "worst_case"]
NAMES: dict[Condition, str] = {"clean": "clean accuracy", "worst_case": "worst case"}
# Of one paired, two-sided comparison.
SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Criteria:
    """What `model` has to reach before it goes live; null asks for nothing.

    `clean`, `worst_case` and `weakest_class` are shares that the lower end of the 95 % interval must reach: of all
    images without an attack, of all images in the worst case, of the images of the class that fares worst in it.
    `not_worse_than` names for a condition a model that `model` must not be significantly worse than on the same images.
    `champion`: neither may it be significantly worse than the registered model that it would replace, which is known
    when it is promoted.
    """

    model: str
    clean: Real | None
    worst_case: Real | None
    weakest_class: Real | None
    not_worse_than: dict[Condition, str]
    champion: bool

    def __post_init__(self) -> None:
        for name in ("clean", "worst_case", "weakest_class"):
            wanted = getattr(self, name)
            if wanted is not None and not 0 <= wanted <= 1:
                raise ValueError(f"got {name} {wanted}, want a share from 0 to 1, or null")


class Criterion(Document):
    """One thing that was asked for, and what was found."""

    name: str
    """What it is about."""
    wanted: str
    """What was asked for."""
    found: str
    """What was measured."""
    met: bool
    """Whether that is enough."""


class Weakest(Document):
    """The class of which the fewest images are right in the worst case."""

    name: str
    """The class."""
    worst_case: Rate
    """Its images that are right in the worst case."""


class Decision(Document):
    """Whether a model may go live."""

    model: str
    """The model that is decided on."""
    answer: Literal["GO", "NO-GO"]
    """GO where every criterion is met."""
    criteria: list[Criterion]
    """What was asked for, in the order of a page."""
    weakest: Weakest | None
    """The weakest class; none where the model met no attack."""


def decide(criteria: Criteria, verdict: str, outcomes: Outcomes, labels: Tensor, classes: Sequence[str]) -> Decision:
    """The decision on a model with a verdict, from all outcomes (`MODEL/clean`, `MODEL/worst_case`, uint8 [n]), the
    labels [n] and the classes by number. Error: no such model among the outcomes."""
    if f"{criteria.model}/clean" not in outcomes:
        raise InputError(f"criteria.model: {criteria.model} was not evaluated")
    weakest = _weakest(outcomes[f"{criteria.model}/worst_case"], labels, classes)
    found = [
        Criterion(name="measurement", wanted="trusted", found=verdict, met=verdict == "trusted"),
        _robust_at_all(criteria.model, outcomes, labels, classes),
        *_reached(criteria, outcomes, weakest),
        *_not_worse(criteria, outcomes),
    ]
    answer = "GO" if all(one.met for one in found) else "NO-GO"
    return Decision(model=criteria.model, answer=answer, criteria=found, weakest=weakest)


def balanced(outcome: Tensor, labels: Tensor) -> float:
    """The mean over the classes of the share of each that is right: every class counts alike, however many images."""
    right = [outcome[labels == label].float().mean() for label in labels.unique()]
    return float(sum(right) / len(right))


def _weakest(worst_case: Tensor, labels: Tensor, classes: Sequence[str]) -> Weakest:
    rates = {label: share(worst_case[labels == label]) for label in map(int, labels.unique())}
    weakest = min(rates, key=lambda label: rates[label].value)
    return Weakest(name=classes[weakest], worst_case=rates[weakest])


def _robust_at_all(model: str, outcomes: Outcomes, labels: Tensor, classes: Sequence[str]) -> Criterion:
    """A worst case that a constant answer has too is no robustness, whether it can be believed or not."""
    common = int(labels.bincount().argmax())
    constant = int((labels == common).sum())
    worst_case = share(outcomes[f"{model}/worst_case"])
    return Criterion(
        name="robust at all",
        wanted=f"surely more right in the worst case than always answering '{classes[common]}' "
        f"({_percent(constant / len(labels))})",
        found=_told(worst_case),
        met=worst_case.low > constant / len(labels),
    )


def _reached(criteria: Criteria, outcomes: Outcomes, weakest: Weakest) -> Iterator[Criterion]:
    whole = {name: share(outcomes[f"{criteria.model}/{name}"]) for name in NAMES}
    for name, wanted, rate in (
        (NAMES["clean"], criteria.clean, whole["clean"]),
        (NAMES["worst_case"], criteria.worst_case, whole["worst_case"]),
        (f"weakest class '{weakest.name}'", criteria.weakest_class, weakest.worst_case),
    ):
        if wanted is not None:
            text = f"surely at least {_percent(wanted)}"
            yield Criterion(name=name, wanted=text, found=_told(rate), met=rate.low >= wanted)


def _not_worse(criteria: Criteria, outcomes: Outcomes) -> Iterator[Criterion]:
    for condition, other in criteria.not_worse_than.items():
        name, wanted = f"{NAMES[condition]} against {other}", "not significantly worse on the same images"
        if f"{other}/{condition}" not in outcomes:
            yield Criterion(name=name, wanted=wanted, found=f"{other} was not evaluated", met=False)
            continue
        pair = paired(outcomes[f"{other}/{condition}"], outcomes[f"{criteria.model}/{condition}"])
        worse = pair.value < 0 and pair.p < SIGNIFICANT
        found = f"{100 * pair.value:+.1f} points ({100 * pair.low:+.1f} to {100 * pair.high:+.1f}), {_p(pair.p)}"
        yield Criterion(name=name, wanted=wanted, found=found, met=not worse)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _told(rate: Rate) -> str:
    return f"{_percent(rate.value)} ({_percent(rate.low)} to {_percent(rate.high)}, n = {rate.n})"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
