"""Measures of teachers against networks whose every number is known, and the rule that ranks them."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from components.evaluation.advice.looks import Attacks, Look, Setting, look
from components.evaluation.advice.measures import Student, of_teacher, unlearnable, with_student
from components.evaluation.advice.ranking import difference, ranked, second_key
from components.evaluation.advice.summary import teaching
from components.evaluation.one_attack import TestSet
from components.foundation.params import Ratio
from components.statistics.bootstrap import PerImage, resampled
from components.statistics.intervals import interval
from components.threats.linf import Linf
from components.threats.parts.threat import Threat

THREAT = Threat(norm=Linf(), epsilon=Ratio(1, 4))
SURE, LIKELY = 0.9, 0.6


class Step(nn.Module):
    """Of one pixel: class 1 above `edge`, with this probability, else class 0 with the same."""

    def __init__(self, edge: float, probability: float) -> None:
        super().__init__()
        self.edge, self.logit = edge, math.log(probability / (1 - probability))

    def forward(self, images: Tensor) -> Tensor:
        side = torch.where(images.flatten(1) > self.edge, 1.0, -1.0)
        return torch.cat([-side, side], 1) * self.logit / 2


def shift(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: object) -> Tensor:
    """As far as allowed towards the other class, in one direction for each label."""
    towards = torch.where(labels == 1, -1.0, 1.0).view(-1, 1, 1, 1)
    return (images + towards * threat.radius).clamp(0, 1)


def no_shift(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: object) -> Tensor:
    return images.clone()


# Class 1 is bright. Attacked they are 0.3, 0.45, 0.75 and 0.45, 0.25: pixel 0.2 of class 0 becomes 0.45.
PIXELS, LABELS = torch.tensor([0.55, 0.7, 1.0, 0.2, 0.0]), torch.tensor([1, 1, 1, 0, 0])
TEST = TestSet(PIXELS.view(-1, 1, 1, 1), LABELS, 2)
# Wrong on 0.55 attacked (0.3) and on 0.7 attacked (0.45).
HALF = Step(0.5, SURE)
# Answers 1 from 0.4 on: right on 0.7 attacked (0.45), wrong on 0.2 attacked (0.45).
LOWER = Step(0.4, LIKELY)
TAUGHT = {"robust_teacher": ("a", "b"), "clean_teacher": ("c",)}


def seen(model: nn.Module, **attacks: object) -> Look:
    return look(model, TEST, Attacks(shift, attacks), THREAT, seed=0)  # pyright: ignore[reportArgumentType]


def shares(found: Mapping[str, PerImage]) -> dict[str, float]:
    return {name: measure.mean for name, measure in found.items()}


def entropy_of(probability: float) -> float:
    return -probability * math.log(probability) - (1 - probability) * math.log(1 - probability)


def test_a_teacher_alone():
    found = of_teacher(seen(HALF), LABELS, 0.5)
    assert shares(found) == pytest.approx(
        {
            "clean": 1,
            "worst_case": 3 / 5,
            "entropy_clean": entropy_of(SURE),
            "entropy_adversarial": entropy_of(SURE),
            "confident_clean": 0,
            "confident_adversarial": 2 / 5,
        }
    )
    assert all(measure.n == 5 for measure in found.values())
    assert of_teacher(seen(HALF), LABELS, 0.95)["confident_adversarial"].mean == 0


def test_the_cascade_goes_on_with_what_stands():
    asked: list[int] = []

    def counting(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: object) -> Tensor:
        asked.append(len(images))
        return 1 - images

    found = seen(HALF, counting=counting, last=no_shift)
    assert sum(asked) == 3 and found.worst_case.tolist() == [False] * 5
    # What was crafted for others stays that of the first attack.
    assert torch.allclose(found.images_adv.flatten(), torch.tensor([0.3, 0.45, 0.75, 0.45, 0.25]))


def test_what_is_wrong_clean_is_wrong_in_the_worst_case():
    assert (
        look(HALF, TEST._replace(labels=1 - LABELS), Attacks(no_shift, {}), THREAT, 0).worst_case.any().item() is False
    )


def test_a_teacher_and_a_student():
    student = Student(LOWER, seen(LOWER), unlearnable([seen(LOWER)], LABELS))
    assert student.unlearnable.tolist() == [True, False, False, True, False]
    found = with_student(HALF, seen(HALF), student, TEST, 0.5)
    assert shares(found) == pytest.approx(
        {
            # The attack moves the same way whatever the model is, so both are shown the same images.
            "confident_student": 2 / 5,
            "tas": 1,
            "to_student": 2 / 5,
            "to_teacher": 2 / 5,
            "entropy_unlearnable": entropy_of(SURE),
        }
    )
    assert found["entropy_unlearnable"].n == 2


def test_an_attack_that_does_not_transfer():
    """The student's own images are clean ones, which the teacher's answer does not move on, but its own do."""
    still = look(LOWER, TEST, Attacks(no_shift, {}), THREAT, 0)
    student = Student(LOWER, still, unlearnable([still], LABELS))
    found = with_student(HALF, seen(HALF), student, TEST, 0.5)
    # Where the teacher's own attack fails too, both divergences are 0, and the image counts.
    assert found["tas"].mean == 3 / 5 and found["to_teacher"].mean == 0 and found["confident_student"].mean == 0
    # The student had everything right: there is no unlearnable image.
    assert "entropy_unlearnable" not in found


def test_transfer_is_counted_where_the_other_one_knows_the_image():
    """Above 0.6 the student takes 0.55 for class 0: it is wrong there before and after, and that is no success."""
    strict = Step(0.6, SURE)
    student = Student(strict, seen(strict), unlearnable([seen(strict)], LABELS))
    found = with_student(HALF, seen(HALF), student, TEST, 0.5)
    # Of 0.7, 1.0, 0.2 and 0.0, attacked 0.45, 0.75, 0.45 and 0.25, the first falls.
    assert (found["to_student"].n, found["to_student"].mean) == (4, 1 / 4)
    back = with_student(strict, seen(strict), Student(HALF, seen(HALF), student.unlearnable), TEST, 0.5)
    assert (back["to_teacher"].n, back["to_teacher"].mean) == (4, 1 / 4)


def test_an_image_is_learnable_once_any_student_had_it_right():
    looks = [seen(HALF), seen(LOWER)]
    assert unlearnable(looks, LABELS).tolist() == [True, False, False, False, False]
    assert unlearnable(looks[:1], LABELS).tolist() == [True, True, False, False, False]


def test_a_student_and_those_who_taught_it():
    """The numbers of the two tests above with their intervals, for every role; nobody but these is looked at."""
    setting = Setting(TEST, Attacks(shift, {"last": no_shift}), THREAT, 0)  # pyright: ignore[reportArgumentType]
    found = teaching({"robust_teacher": HALF, "clean_teacher": LOWER}, TAUGHT, LOWER, setting)
    assert (found.num_images, found.unlearnable, found.confident, list(found.cascade)) == (5, 2, 0.5, ["last"])
    robust, clean = (found.roles[role] for role in ("robust_teacher", "clean_teacher"))
    assert (robust.teachers, clean.teachers) == (["a", "b"], ["c"])
    values = {name: one.value for name, one in robust.measures.items()}
    wanted = {"clean": 1, "worst_case": 0.6, "confident_clean": 0, "confident_adversarial": 0.4}
    wanted |= {"confident_student": 0.4, "tas": 1, "to_student": 0.4, "to_teacher": 0.4}
    wanted |= dict.fromkeys(("entropy_clean", "entropy_adversarial", "entropy_unlearnable"), entropy_of(SURE))
    assert values == pytest.approx(wanted, abs=1e-6)
    two_of_five = robust.measures["confident_student"]
    assert (two_of_five.low, two_of_five.high) == pytest.approx(interval(2, 5), abs=1e-6)
    # All images have the same entropy, so all resamples have.
    assert robust.measures["entropy_clean"].low == robust.measures["entropy_clean"].high
    assert [robust.measures[name].n for name in ("tas", "entropy_unlearnable")] == [5, 2]
    # Of itself a student is told what it makes of its own images: 0.55 and 0.2 attacked.
    assert clean.measures["confident_student"].value == clean.measures["confident_adversarial"].value == 0.4


def test_no_answer_has_no_entropy():
    class Silent(nn.Module):
        """No answer for dark images, attacked 0.25 and 0.45."""

        def forward(self, images: Tensor) -> Tensor:
            return HALF(images).where(images.flatten(1) > 0.25, math.nan)

    found = of_teacher(seen(Silent()), LABELS, 0.5)
    assert (found["entropy_clean"].n, found["entropy_adversarial"].n) == (3, 4)
    assert found["entropy_clean"].mean == pytest.approx(entropy_of(SURE)) and found["clean"].mean == 3 / 5


# --- the rule ---


def outcomes(right: int, confident: int, n: int = 200) -> dict[str, PerImage]:
    """A teacher that keeps the first `right` images and is confidently wrong on the last `confident`."""
    places = torch.arange(n)
    return {
        "worst_case": PerImage.of(places < right),
        "confident_adversarial": PerImage.of(places >= n - confident),
        "confident_student": PerImage.of(places >= n - confident),
    }


TEACHERS = {
    "strong": outcomes(150, 40),
    "nearly": outcomes(148, 20),
    "weak": outcomes(80, 5),
    "none": outcomes(0, 200),
}


def test_robust_first_and_confident_errors_where_that_is_no_difference():
    counts = resampled(200, 0)
    found = ranked(TEACHERS, counts)
    assert list(found) == ["nearly", "strong", "weak", "none"]
    assert [(place.place, place.group) for place in found.values()] == [(1, 1), (2, 1), (3, 2), (4, 3)]
    # By worst-case accuracy alone, all resamples have the weak one third.
    assert (found["weak"].low, found["weak"].high) == (3, 3) and (found["strong"].low, found["strong"].high) == (1, 1)
    assert found["nearly"].high == 2


def test_the_order_of_teachers_changes_nothing():
    counts = resampled(200, 0)
    wanted = ranked(TEACHERS, counts)
    for names in (["none", "weak", "nearly", "strong"], ["weak", "strong", "none", "nearly"]):
        found = ranked({name: TEACHERS[name] for name in names}, counts)
        assert list(found.items()) == list(wanted.items())


def test_a_teacher_and_itself_differ_by_nothing_and_share_a_place():
    counts = resampled(200, 0)
    one = TEACHERS["weak"]["worst_case"]
    assert difference(one, one, counts) == (0, 0, 0, 200) and not difference(one, one, counts).told
    found = ranked({"b": TEACHERS["weak"], "a": TEACHERS["weak"], "c": TEACHERS["none"]}, counts)
    assert {name: (place.place, place.group) for name, place in found.items()} == {
        "a": (1, 1),
        "b": (1, 1),
        "c": (3, 2),
    }


def test_without_a_student_a_teachers_own_attacked_images_decide():
    assert second_key(TEACHERS) == "confident_student"
    alone = {name: {k: v for k, v in found.items() if k != "confident_student"} for name, found in TEACHERS.items()}
    assert second_key(alone) == "confident_adversarial"
    assert list(ranked(alone, resampled(200, 0))) == ["nearly", "strong", "weak", "none"]
