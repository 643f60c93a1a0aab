"""GO or NO-GO: every criterion on both sides of its bound, and nothing that is not measured is met."""

from typing import Any

import pytest
import torch
from torch import Tensor

from components.evaluation.criteria import Criteria, balanced, decide
from components.foundation.errors import InputError

N = 400
CLASSES = ("cat", "dog")
LABELS = torch.arange(N) % 2
DEFAULT: dict[str, Any] = {
    "model": "student",
    "clean": None,
    "worst_case": None,
    "weakest_class": None,
    "not_worse_than": {"clean": "clean_teacher", "worst_case": "robust_teacher"},
    "champion": True,
}


def right(count: int, n: int = N) -> Tensor:
    """The first `count` of `n` images are right."""
    return (torch.arange(n) < count).to(torch.uint8)


def outcomes(**changes: Tensor) -> dict[str, Tensor]:
    """A student as good as both of its teachers."""
    found = {
        "clean_teacher/clean": right(396),
        "clean_teacher/worst_case": right(0),
        "robust_teacher/clean": right(390),
        "robust_teacher/worst_case": right(280),
        "student/clean": right(394),
        "student/worst_case": right(280),
    }
    return found | {name.replace("__", "/"): outcome for name, outcome in changes.items()}


def criteria(**changes: Any) -> Criteria:
    return Criteria(**{**DEFAULT, **changes})


def decided(found: dict[str, Tensor] | None = None, verdict: str = "trusted", **changes: Any) -> Any:
    return decide(criteria(**changes), verdict, found or outcomes(), LABELS, CLASSES)


def unmet(decision: Any) -> list[str]:
    return [one.name for one in decision.criteria if not one.met]


def test_a_student_that_holds_its_teachers_goes():
    decision = decided()
    assert decision.answer == "GO" and unmet(decision) == []
    assert [one.name for one in decision.criteria] == [
        "measurement",
        "robust at all",
        "clean accuracy against clean_teacher",
        "worst case against robust_teacher",
    ]


@pytest.mark.parametrize("verdict", ["suspect", "broken"])
def test_no_number_that_is_not_believed_goes(verdict):
    assert unmet(decided(verdict=verdict)) == ["measurement"] and decided(verdict=verdict).answer == "NO-GO"


def test_significantly_worse_than_a_teacher_does_not_go():
    """Six images of the same 400, all lost: p = 1/32; five: p = 1/16."""
    assert unmet(decided(outcomes(student__worst_case=right(275)))) == []
    decision = decided(outcomes(student__worst_case=right(274)))
    assert unmet(decision) == ["worst case against robust_teacher"] and decision.answer == "NO-GO"
    assert decision.criteria[-1].found == "-1.5 points (-3.2 to -0.5), p = 0.031"


@pytest.mark.parametrize("name, model", [("clean", "student/clean"), ("worst_case", "student/worst_case")])
def test_a_floor_is_for_the_lower_end_of_the_interval(name, model):
    """Of 320 of 400 images, 80 %, the 95 % interval begins at 75.8 %."""
    found = outcomes() | {model: right(320), "clean_teacher/clean": right(320), "robust_teacher/worst_case": right(280)}
    for floor, missed in ((0.757, 0), (0.759, 1)):
        asked: dict[str, Any] = {name: floor}
        assert len(unmet(decided(found, **asked))) == missed


def test_the_weakest_class_is_named_and_has_a_floor():
    worst = right(280)
    worst[LABELS == 1] = right(70, 200)
    decision = decided(outcomes(student__worst_case=worst), weakest_class=0.5, not_worse_than={})
    assert decision.weakest.name == "dog" and decision.weakest.worst_case.value == 0.35
    assert "weakest class 'dog'" in unmet(decision)


def test_a_worst_case_of_a_constant_answer_is_no_robustness():
    constant = (LABELS == 0).to(torch.uint8)
    found = outcomes(student__worst_case=constant, robust_teacher__worst_case=constant)
    assert unmet(decided(found)) == ["robust at all"]
    assert unmet(decided(outcomes(student__worst_case=right(0), robust_teacher__worst_case=right(0)))) == [
        "robust at all"
    ]


def test_what_was_not_evaluated_is_not_met():
    decision = decided(not_worse_than={"worst_case": "giant"})
    assert unmet(decision) == ["worst case against giant"]
    with pytest.raises(InputError, match=r"criteria.model: pupil was not evaluated"):
        decided(model="pupil")


def test_balanced_counts_every_class_alike():
    labels = torch.tensor([0] * 90 + [1] * 10)
    assert balanced((labels == 0).to(torch.uint8), labels) == pytest.approx(0.5)


def test_a_floor_is_a_share():
    with pytest.raises(ValueError, match="got worst_case 68"):
        criteria(worst_case=68.0)
