"""GO or NO-GO: every criterion on both sides of its bound, and nothing that was not measured is met."""

from typing import Any

import pytest
import torch
from torch import Tensor

from components.evaluation.criteria import Criteria, Decision, decide
from components.foundation.errors import InputError
from components.foundation.params import typed
from tests.parts.evaluation_files import CRITERIA

N = 400
CLASSES = ("cat", "dog")
LABELS = torch.arange(N) % 2
NOBODY = {"clean": None, "worst_case": None}


def right(count: int, n: int = N) -> Tensor:
    """The first `count` of `n` images are right."""
    return (torch.arange(n) < count).to(torch.uint8)


def outcomes(**changes: Tensor) -> dict[str, Tensor]:
    """A student as good as both of its teachers."""
    alike = {
        "labels": LABELS,
        "clean_teacher/clean": right(396),
        "clean_teacher/worst_case": right(0),
        "robust_teacher/clean": right(390),
        "robust_teacher/worst_case": right(280),
        "student/clean": right(394),
        "student/worst_case": right(280),
    }
    return alike | {name.replace("__", "/"): outcome for name, outcome in changes.items()}


def criteria(**changes: Any) -> Criteria:
    """The default as params.yaml would hold it, with changes."""
    return typed(Criteria, {**CRITERIA, **changes}, "criteria")


def decided(seen: dict[str, Tensor] | None = None, verdict: str = "trusted", **changes: Any) -> Decision:
    return decide(criteria(**changes), verdict, seen or outcomes(), CLASSES)


def unmet(decision: Decision) -> list[str]:
    assert (decision.answer == "GO") == (decision.unmet == [])
    return [criterion.name for criterion in decision.unmet]


def test_a_student_that_holds_its_teachers_goes() -> None:
    decision = decided()
    assert unmet(decision) == [] and decision.champion
    assert [criterion.name for criterion in decision.criteria] == [
        "measurement",
        "robust at all",
        "clean accuracy against clean teacher",
        "worst case against robust teacher",
    ]


@pytest.mark.parametrize("verdict", ["suspect", "broken", "not judged"])
def test_no_number_that_is_not_believed_goes(verdict: str) -> None:
    assert unmet(decided(verdict=verdict)) == ["measurement"]


def test_significantly_worse_than_a_teacher_does_not_go() -> None:
    """Six of the same 400 images more, all lost: p = 1/32; five: p = 1/16."""
    assert unmet(decided(outcomes(student__worst_case=right(275)))) == []
    decision = decided(outcomes(student__worst_case=right(274)))
    assert unmet(decision) == ["worst case against robust teacher"]
    assert decision.unmet[0].measured.startswith("\u22121.5 points (\u22123.2 to \u22120.5, p = 0.031")
    assert unmet(decided(outcomes(student__clean=right(390)))) == ["clean accuracy against clean teacher"]
    assert unmet(decided(outcomes(student__worst_case=right(0)), not_worse_than=NOBODY)) == ["robust at all"]


@pytest.mark.parametrize(
    ("lost", "margin", "met"), [(12, 0.06, True), (12, 0.05, False), (0, 0.01, True), (0, 0.005, False)]
)
def test_with_a_margin_the_whole_interval_must_lie_above_it(lost: int, margin: float, met: bool) -> None:
    """Of 400 images: 12 lost, so 5.2 points are not excluded; none lost, 0.9. Few images pass no more easily."""
    asked = CRITERIA["not_worse_than"] | {"margin": margin}
    decision = decided(outcomes(student__worst_case=right(280 - lost)), not_worse_than=asked | {"clean": None})
    assert (decision.criteria[-1].met, decision.criteria[-1].wanted) == (
        met,
        f"surely at most {100 * margin:.1f} points worse on the same images",
    )


def test_significantly_better_is_not_worse() -> None:
    assert unmet(decided(outcomes(student__worst_case=right(300), student__clean=right(400)))) == []


@pytest.mark.parametrize("name", ["clean", "worst_case"])
def test_a_floor_is_for_the_lower_end_of_the_interval(name: str) -> None:
    """Of 320 of 400 images, 80 %, the 95 % interval begins at 75.8 %."""
    seen = outcomes() | {f"student/{name}": right(320)}
    for floor, missed in ((0.757, 0), (0.759, 1), ("3/4", 0)):
        asked: dict[str, Any] = {name: floor, "not_worse_than": NOBODY}
        assert len(unmet(decided(seen, **asked))) == missed


def test_the_weakest_class_is_named_and_has_a_floor() -> None:
    worst = right(N)
    worst[LABELS == 1] = right(70, 200)
    for floor, names in ((0.28, []), (0.5, ["weakest class “dog”"])):
        decision = decided(outcomes(student__worst_case=worst), weakest_class=floor, not_worse_than=NOBODY)
        assert unmet(decision) == names
        assert decision.criteria[-1].measured.startswith("35.0 % (28.7 to 41.8 %, n = 200)")


@pytest.mark.parametrize("answer", [0, 1])
def test_a_worst_case_of_a_constant_answer_is_no_robustness(answer: int) -> None:
    """However many images the class has that it always names."""
    for often in (0.5, 0.9):
        labels = (torch.arange(N) >= often * N).long()
        constant = (labels == answer).to(torch.uint8)
        seen = outcomes(student__worst_case=constant, labels=labels)
        assert unmet(decided(seen, not_worse_than=NOBODY)) == ["robust at all"]
    better = (labels == answer) | (torch.arange(N) % 4 == 0)
    assert unmet(decided(outcomes(student__worst_case=better, labels=labels), not_worse_than=NOBODY)) == []


@pytest.mark.parametrize("absent", ["student/worst_case", "student/clean", "robust_teacher/worst_case"])
def test_what_was_not_measured_is_not_met_and_nothing_fails(absent: str) -> None:
    seen = {name: outcome for name, outcome in outcomes().items() if name != absent}
    decision = decided(seen, clean=0.5, worst_case=0.5, weakest_class=0.1)
    names = unmet(decision)
    assert names and {criterion.measured for criterion in decision.unmet} == {"not measured"}
    assert ("weakest class" in names) == (absent == "student/worst_case")


def test_a_model_that_nobody_evaluated_is_a_no_go() -> None:
    assert len(unmet(decided(model="pupil", clean=0.5))) == 4
    assert unmet(decided(not_worse_than={"clean": None, "worst_case": "giant"})) == ["worst case against giant"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"worst_case": 68.0}, "criteria.worst_case: got 68.0, want at most 1"),
        ({"clean": -0.1}, "criteria.clean: got -0.1, want at least 0"),
        ({"weakest": 0.1}, "criteria.weakest: unknown key"),
        ({"not_worse_than": {"clean": None}}, "criteria.not_worse_than.worst_case: missing"),
        ({"champion": "yes"}, "criteria.champion"),
    ],
)
def test_a_mistake_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        criteria(**changes)
    assert str(error.value).startswith(said)
