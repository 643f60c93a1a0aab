"""The sentences of an advice: what differs, what does not, what confident errors cost, and what is not said."""

from typing import Any

import pytest
import torch

from components.reports.advice.contents import Advice, Calibration
from components.reports.advice.document import build, misfit
from components.reports.advice.page import page
from components.reports.advice.sentences import NO_STUDENT
from components.reports.advice.text import text
from components.reports.measure_words import MEANINGS, TITLES
from components.statistics.bootstrap import PerImage, resampled
from components.statistics.documents import as_json, document_of

N = 400
NETWORK = {"file": "x", "sha256": "0" * 64, "architecture": {"name": "small_cnn"}, "num_parameters": 5, "epoch": 2}
SLOPE = {"value": -0.25, "low": -0.4, "high": -0.1}
CALIBRATION = {
    "schema": "temper/advice-calibration/1",
    "dataset": "pets",
    "norm": "linf",
    "epsilon": "8/255",
    "method": "rslad",
    "student": "small_cnn",
    "confident": 0.5,
    "num_teachers": 9,
    "slopes": {"worst_case": {"value": 0.5, "low": 0.2, "high": 0.8}, "confident_student": SLOPE},
}


def teacher(right: int, confident: int) -> dict[str, PerImage]:
    """It keeps the first `right` of 400 images, and is confidently wrong on the last `confident` ones."""
    places = torch.arange(N)
    wrong = PerImage.of(places >= N - confident)
    return {
        "clean": PerImage.of(places < 390),
        "worst_case": PerImage.of(places < right),
        "entropy_clean": PerImage.of(torch.full((N,), 0.5)),
        "confident_adversarial": wrong,
        "confident_student": wrong,
    }


def advice(teachers: dict[str, dict[str, PerImage]], most_common: float = 0.1, **about: Any) -> Advice:
    common = {
        "dataset": "pets",
        "num_images": N,
        "classes": ["cat", "dog"],
        "images_sha256": "1" * 64,
        "threat": {"norm": "linf", "epsilon": "8/255"},
        "seed": 0,
        "crafting": "Pgd(steps=20, step_size=2/255, start='uniform', loss='cross_entropy', restarts=1)",
        "cascade": {},
        "confident": 0.5,
        "provenance": {},
    }
    seen = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 200, "n": N}
    common["students"] = {"pupil": NETWORK | {"clean": seen, "attacked": seen}}
    facts = dict.fromkeys(teachers, NETWORK)
    return build(teachers, facts, resampled(N, 0), most_common, common | about)


STRONG, WEAK = teacher(240, 84), teacher(184, 20)


def test_what_differs_is_told_with_its_interval():
    (line,) = advice({"A": WEAK, "B": STRONG}).sentences
    assert line.startswith("B is 14.0 points more robust than A (95 % interval 1")
    assert line.endswith("but it is confidently wrong on 21.0 % of the student's attacked images (A: 5.0 %).")


def test_what_confident_errors_cost_needs_a_calibration():
    told = advice({"A": WEAK, "B": STRONG}, calibration=CALIBRATION)
    # 16 points more confident errors, at a quarter of a point each.
    assert (
        "which cost students such as small_cnn about 4.0 points (95 % interval 1.6 to 6.4, from 9 teachers)."
        in (told.sentences[0])
    )
    unsure = CALIBRATION | {"slopes": {"confident_student": SLOPE | {"high": 0.01}}}
    for silent in (unsure, CALIBRATION | {"slopes": {}}):
        assert "cost" not in advice({"A": WEAK, "B": STRONG}, calibration=silent).sentences[0]
    # More robust, and fewer errors: there is nothing to pay for.
    (line,) = advice({"A": teacher(184, 84), "B": teacher(240, 20)}, calibration=CALIBRATION).sentences
    assert "and it is confidently wrong on 5.0 %" in line and "cost" not in line


def test_what_does_not_differ_is_no_order():
    found = advice({"A": teacher(200, 60), "B": teacher(198, 20)})
    assert found.order == ["B", "A"] and found.teachers["A"].group == found.teachers["B"].group == 1
    assert found.sentences[0].startswith("B and A cannot be told apart in robustness (difference −0.5 points, 95 %")
    assert "and B is confidently wrong on 5.0 % of the student's attacked images (A: 15.0 %)." in found.sentences[0]


def test_a_teacher_that_is_not_robust_is_called_so():
    found = advice({"A": STRONG, "zero": teacher(0, 200)})
    assert found.sentences[1] == (
        "Not robust: zero, whose worst case cannot be told from one answer for every image (10.0 %)."
    )
    assert found.teachers["A"].robust and not found.teachers["zero"].robust and "<h1>A</h1>" in page(found)
    none = advice({"A": STRONG}, most_common=0.9)
    assert none.sentences[1].startswith("Not robust: A") and "<h1>No robust teacher</h1>" in page(none)


def test_one_teacher_and_no_student():
    alone = {name: measure for name, measure in STRONG.items() if name != "confident_student"}
    lines = advice({"A": alone}, students={}).sentences
    assert lines[0].startswith("A keeps 60.0 % of the images under attack (95 % interval 5") and lines[1] == NO_STUDENT
    assert lines[0].endswith("confidently wrong on 21.0 % of its own attacked images.")


def test_text_and_page_say_the_same():
    found = advice({"A": WEAK, "B": STRONG})
    shown, drawn = text(found), page(found)
    assert max(map(len, shown.splitlines())) <= 100
    assert "accuracy, worst case, %" in shown and "60.0" in shown and "Accuracy, worst case, %" in drawn
    assert "−14.0" in drawn and page(found) == drawn


def test_every_measure_has_its_words():
    assert list(TITLES) == [*dict.fromkeys(TITLES)] and set(TITLES) == set(MEANINGS)


def test_the_document_reads_itself():
    found = advice({"A": WEAK, "B": STRONG}, calibration=CALIBRATION, unlearnable=7)
    assert document_of(Advice, as_json(found), "made up") == found


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"epsilon": "4/255"}, "epsilon 4/255 instead of 8/255"),
        ({"confident": 0.9, "norm": "l2"}, "norm l2 instead of linf, confident 0.9 instead of 0.5"),
    ],
)
def test_a_calibration_is_of_one_data_set_threat_model_and_threshold(change, why):
    calibration = document_of(Calibration, CALIBRATION | change, "made up")
    about = {"dataset": "pets", "threat": {"norm": "linf", "epsilon": "8/255"}, "confident": 0.5}
    assert misfit(calibration, about) == why
