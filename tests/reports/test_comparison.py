"""Two models on the same images: numbers by hand, what is refused, and the same through folders and MLflow."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from components.foundation.errors import InputError
from components.foundation.storage import read_json
from components.numerics.tensor_files import write_tensors
from components.reports.comparison import document as comparison
from components.reports.comparison.contents import Comparison
from components.reports.comparison.document import compare, load
from components.reports.comparison.text import markdown, text
from components.statistics.documents import as_json
from components.statistics.intervals import interval, mcnemar, tango
from components.statistics.number_text import p_text
from temper.cli import main as temper
from tests.parts.paired_evaluations import CASCADE, CLASSES, NUM_IMAGES, outcomes, write_evaluation, wrong


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Evaluations of two students: A falls on 40 images, B on 25 of the same."""
    a = write_evaluation(tmp_path / "a", outcomes(40))
    return a, write_evaluation(tmp_path / "b", outcomes(25), "b" * 64)


def compared(a: Path, b: Path) -> dict[str, Any]:
    """The comparison as JSON."""
    return as_json(between(a, b))


def between(a: Path, b: Path) -> Comparison:
    return compare(load(a), load(b))


def test_the_numbers_by_hand(folders: tuple[Path, Path]) -> None:
    found = compared(*folders)
    assert list(found["conditions"]) == ["clean", "fgsm", "pgd", "cascade", "worst_case"]
    worst = found["conditions"]["worst_case"]
    assert (worst["a"]["count"], worst["b"]["count"], worst["a"]["n"]) == (60, 75, 100)
    difference = worst["difference"]
    assert (difference["only_a"], difference["only_b"], difference["value"]) == (0, 15, pytest.approx(0.15))
    assert difference["p"] == pytest.approx(2 * 0.5**15, rel=1e-5)
    assert (difference["low"], difference["high"]) == pytest.approx(tango(0, 15, 100), rel=1e-5)
    clean = found["conditions"]["clean"]["difference"]
    assert (clean["only_a"], clean["only_b"], clean["p"], clean["value"]) == (0, 0, 1, 0)
    pgd = found["conditions"]["pgd"]["a"]
    assert (pgd["low"], pgd["high"]) == pytest.approx(interval(65, 100), rel=1e-5)
    assert found["schema"] == "temper/comparison/1"


def test_the_answer_names_the_better_model(folders: tuple[Path, Path]) -> None:
    forth, back = compared(*folders)["answer"], compared(*reversed(folders))["answer"]
    assert forth == "B is more robust than A by 15.0 points (95 % interval 9.3 to 23.3, n = 100, p < 0.001)"
    assert back == "A is more robust than B by 15.0 points (95 % interval 9.3 to 23.3, n = 100, p < 0.001)"


def test_no_difference_says_what_would_be_seen(tmp_path: Path) -> None:
    a, b = write_evaluation(tmp_path / "a", outcomes(40)), write_evaluation(tmp_path / "b", outcomes(38), "b" * 64)
    found = compared(a, b)
    detectable = found["conditions"]["worst_case"]["detectable"]
    assert f"only differences above {100 * detectable['paired']:.1f} points would be" in found["answer"]
    assert found["answer"].startswith("no difference in robustness can be told: with n = 100")
    assert f"p = {mcnemar(0, 2):.3f}" in found["answer"]
    assert 0.02 < detectable["paired"] < detectable["unpaired"]


def test_the_worst_case_is_per_image(tmp_path: Path) -> None:
    found = {"student/clean": wrong([0]), "student/fgsm": wrong([1]), "student/pgd": wrong([2, 3])}
    found |= {"student/cascade/apgd_ce": wrong([0, 4]), "student/cascade/apgd_t": wrong([0, 4, 5])}
    side = write_evaluation(tmp_path / "a", found)
    assert compared(side, side)["conditions"]["worst_case"]["a"]["count"] == NUM_IMAGES - 6
    assert compared(side, side)["conditions"]["cascade"]["a"]["count"] == NUM_IMAGES - 3


def test_without_a_cascade_none_is_compared(tmp_path: Path) -> None:
    without = {key: value for key, value in outcomes(40).items() if "cascade" not in key}
    side = write_evaluation(tmp_path / "a", without, cascade={"name": "none", "attacks": {}})
    found = compared(side, side)
    assert list(found["conditions"]) == ["clean", "fgsm", "pgd", "worst_case"]
    assert found["cascade"]["name"] == "none"


def test_other_settings_are_left_out_and_said(tmp_path: Path) -> None:
    a = write_evaluation(tmp_path / "a", outcomes(40))
    attacks = {"fgsm": "Fgsm()", "pgd": "Pgd(steps=7)", "square": "Square()"}
    more = outcomes(30) | {"student/square": wrong(range(90))}
    b = write_evaluation(tmp_path / "b", more, "b" * 64, attacks=attacks)
    found = compared(a, b)
    assert list(found["conditions"]) == ["clean", "fgsm", "cascade", "worst_case"]
    assert found["left_out"] == {"pgd": "for A PGD: 20 steps; for B PGD: 7 steps", "square": "met only by B"}
    assert found["conditions"]["worst_case"]["b"]["count"] == 70, "an attack that A never met counts against none"
    assert any("Square (met only by B)" in remark for remark in found["remarks"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"provenance": {"data.sha256": "e" * 64}}, "other test images (sha256 dddddddddddd, eeeeeeeeeeee)"),
        ({"classes": CLASSES[::-1]}, "other test images (100 of shapes, 100 of shapes)"),
        ({"threat": {"norm": "l2", "epsilon": "8/255"}}, "another threat model (linf 8/255, l2 8/255)"),
        ({"threat": {"norm": "linf", "epsilon": "4/255"}}, "another threat model (linf 8/255, linf 4/255)"),
        ({"cascade": {**CASCADE, "name": "autoattack"}}, "another cascade (quick, autoattack)"),
        ({"cascade": {"name": "quick", "attacks": {}}}, "other settings in the cascade quick"),
    ],
)
def test_incomparable_evaluations_are_refused(folders: tuple[Path, Path], changes: dict[str, Any], said: str) -> None:
    write_evaluation(folders[1], outcomes(25), "b" * 64, **changes)
    with pytest.raises(InputError, match="cannot be compared: ") as error:
        compared(*folders)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_other_labels_are_refused(folders: tuple[Path, Path]) -> None:
    write_tensors(folders[1] / "outcomes.safetensors", outcomes(25) | {"labels": torch.zeros(NUM_IMAGES).long()})
    with pytest.raises(InputError, match="other test images"):
        compared(*folders)


def test_no_attack_in_common_is_refused(tmp_path: Path) -> None:
    found = {"student/clean": wrong([]), "student/pgd": wrong([1])}
    none = {"name": "none", "attacks": {}}
    a = write_evaluation(tmp_path / "a", found, cascade=none)
    b = write_evaluation(tmp_path / "b", found, cascade=none, attacks={"pgd": "Pgd(steps=1)"})
    with pytest.raises(InputError, match=r"no attack in common \(PGD for A PGD: 20 steps; for B PGD: 1 step\)"):
        compared(a, b)
    bare = write_evaluation(tmp_path / "bare", {"student/clean": wrong([])}, cascade=none, attacks={})
    assert list(compared(bare, bare)["conditions"]) == ["clean"]


def test_two_models_of_one_evaluation(tmp_path: Path) -> None:
    both = write_evaluation(tmp_path / "both", outcomes(40) | outcomes(25, "robust_teacher"))
    assert load(both).model == "student"
    found = as_json(compare(load(both), load(both, "robust_teacher")))
    assert found["conditions"]["worst_case"]["difference"]["only_b"] == 15
    with pytest.raises(InputError, match=r"unknown 'pupil' \(allowed: robust_teacher, student\)"):
        load(both, "pupil")
    named = write_evaluation(tmp_path / "named", outcomes(40, "one") | outcomes(25, "two"))
    with pytest.raises(InputError, match=r"2 models and no student, name one \(allowed: one, two\)"):
        load(named)
    assert load(write_evaluation(tmp_path / "single", outcomes(40, "one"))).model == "one"


def test_a_project_folder_is_its_evaluation(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "evaluation", outcomes(40))
    assert load(tmp_path).evaluation == load(tmp_path / "evaluation").evaluation


def test_broken_files_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/evaluation\.json: no such file"):
        load(tmp_path / "nowhere")
    write_evaluation(folders[0], outcomes(40), schema="temper/robustness/1")
    with pytest.raises(InputError, match="schema 'temper/robustness/1', want 'temper/evaluation/2'"):
        load(folders[0])
    write_evaluation(folders[0], outcomes(40), num_images=99)
    with pytest.raises(InputError, match=r"outcomes\.safetensors: labels is int64 \[100\], want int64 \[99\]"):
        load(folders[0])
    write_evaluation(folders[0], {"student/pgd": wrong([])})
    with pytest.raises(InputError, match="nothing called 'student/clean'"):
        load(folders[0])


def test_classes_are_corrected_for_their_number(tmp_path: Path) -> None:
    circles = range(0, 100, len(CLASSES))
    a, b = outcomes(40), outcomes(40)
    b["student/fgsm"] = wrong(circles)
    found = compared(write_evaluation(tmp_path / "a", a), write_evaluation(tmp_path / "b", b, "b" * 64))
    rows = {row["class"]: row for row in found["per_class"]}
    assert list(rows) == CLASSES
    circle, cross = rows["circle"], rows["cross"]
    assert (circle["difference"]["only_a"], circle["difference"]["n"], circle["b"]["count"]) == (15, 25, 0)
    assert circle["difference"]["p_corrected"] == pytest.approx(4 * circle["difference"]["p"])
    assert cross["difference"]["p_corrected"] == 1


def test_remarks_say_what_weakens_the_answer(tmp_path: Path) -> None:
    a = write_evaluation(tmp_path / "a", outcomes(40), provenance={}, seed=1, evidence={"student": {}})
    b = write_evaluation(tmp_path / "b", outcomes(25))
    said = " ".join(compared(a, b)["remarks"])
    assert "A and B are the same file." in said
    assert "The evaluation of A is suspect" in said
    assert "from their labels only" in said
    assert "seeded differently (1 and 0)" in said
    assert compared(b, write_evaluation(tmp_path / "c", outcomes(25), "c" * 64))["remarks"] == []


def test_p_never_hides_on_which_side_it_is() -> None:
    assert p_text(0.04996) == "p = 0.0500" and p_text(0.0499) == "p = 0.0499"
    assert p_text(0.2891) == "p = 0.289" and p_text(0.00001) == "p < 0.001"


def test_the_text_fits_a_terminal(folders: tuple[Path, Path]) -> None:
    lines = text(between(*folders)).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "Is B more robust than A?  shapes, 100 test images, L∞ ε = 8/255"
    (worst,) = (" ".join(line.split()) for line in lines if line.startswith("worst case"))
    assert worst == "worst case 60.0 (50.2–69.1) 75.0 (65.7–82.5) +15.0 (+9.3 to +23.3) 0 15 < 0.001"


def test_autoattack_is_called_so_only_where_it_is(tmp_path: Path) -> None:
    side = write_evaluation(tmp_path / "a", outcomes(40), cascade={**CASCADE, "name": "autoattack"})
    assert "AutoAttack" in text(between(side, side))
    side = write_evaluation(tmp_path / "a", outcomes(40), cascade={**CASCADE, "name": "custom"})
    assert "AutoAttack" not in text(between(side, side))


def test_markdown_has_whole_tables(folders: tuple[Path, Path]) -> None:
    rows = [line for line in markdown(between(*folders)).splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 3, "three tables"
    assert sum(row.startswith("| worst case |") for row in rows) == 1


def test_the_command(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, folders)
    assert temper(["compare", a, b, "--json", str(tmp_path / "found.json")]) == 0
    assert "A  student  " in capsys.readouterr().out
    found = read_json(tmp_path / "found.json")
    assert found["a"]["title"] == a
    assert found["answer"].startswith("B is more robust than A by 15.0 points")
    assert math.isclose(found["conditions"]["worst_case"]["difference"]["p"], 2 * 0.5**15, rel_tol=1e-5)
    assert temper(["compare", a, b, "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("**Is B more robust than A?")
    assert temper(["compare", a, b, "--model-b", "pupil"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_only_p_below_the_level_is_a_difference() -> None:
    assert mcnemar(0, 5) > comparison.SIGNIFICANT > mcnemar(0, 6)
