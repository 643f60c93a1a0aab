"""What changed between two reports: nothing where nothing did, and each change by its name."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from components.foundation.storage import write_json
from components.reports.robustness.changes import Changes, differences, text
from components.reports.robustness.contents import Report
from components.statistics.documents import as_json, document_of
from temper.cli import main as temper
from tests.parts.evaluation_files import document, evidence


@pytest.fixture(scope="module")
def made_up() -> dict[str, Any]:
    return as_json(document())


@pytest.fixture
def old(made_up: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(made_up)


@pytest.fixture
def new(made_up: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(made_up)


def between(old: dict[str, Any], new: dict[str, Any]) -> Changes:
    """What differs between two documents that are given as JSON."""
    return differences(*(document_of(Report, side, name) for side, name in ((old, "old"), (new, "new"))))


def test_a_report_does_not_differ_from_itself(old: dict[str, Any]) -> None:
    found = between(old, old)
    assert not (found.verdicts or found.rates or found.facts or found.only["old"] or found.only["new"])
    assert found.same_rates > 100
    words = text(found, ("a", "b"))
    assert "No rate changed." in words and "The verdicts are the same." in words and "Nothing else differs." in words


def test_a_changed_rate_is_told_with_points_and_intervals(old: dict[str, Any], new: dict[str, Any]) -> None:
    rate = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 30, "n": 60}
    old["models"]["student"]["clean"] = rate
    new["models"]["student"]["clean"] = rate | {"value": 0.55, "low": 0.45, "high": 0.65}
    (one,) = between(old, new).rates
    assert (one.name, one.change, one.apart) == ("student clean", 0.05, False)
    new["models"]["student"]["clean"] = rate | {"value": 0.3, "low": 0.2, "high": 0.39}
    found = between(old, new)
    assert (found.rates[0].change, found.rates[0].apart) == (-0.2, True)
    line = next(line for line in text(found, ("a", "b")).splitlines() if line.startswith("student clean"))
    assert line.split()[-1] == "apart" and "\u221220.0" in line


def test_rates_in_lists_have_names(old: dict[str, Any], new: dict[str, Any]) -> None:
    student = new["models"]["student"]
    for point in (
        student["curve"][1],
        student["cascade"][0],
        student["grid"]["bim"][2],
        student["per_class"][0]["clean"],
    ):
        point["n"] += 1
    new["transfer"]["fooling"]["pgd_sat"]["student"]["clean_teacher"]["n"] += 1
    assert {one.name for one in between(old, new).rates} == {
        "student curve ε = 1/51",
        "student cascade apgd_ce",
        "student grid bim ε = 1/5",
        "student per_class circle clean",
        "transfer fooling pgd_sat student clean_teacher",
    }


def test_a_verdict_that_changed_is_told_with_its_rules() -> None:
    new = document(evidence={"clean_teacher": evidence(0), "robust_teacher": evidence(8), "student": evidence(8)})
    found = differences(document(), new)
    (one,) = found.verdicts
    assert one == ("student", "trusted", "suspect (square helps)")
    assert "suspect (square helps)" in text(found, ("a", "b"))


def test_other_facts_and_missing_rates_are_told(old: dict[str, Any], new: dict[str, Any]) -> None:
    new["attacks"] = {**new["attacks"], "fgsm": "Fgsm(aim='predicted')"}
    new["params"] = {"seed": 1, "report": {"gallery_images": 3}}
    del new["models"]["student"]["attacks"]["cw"]
    found = between(old, new)
    assert {fact.name: (fact.old, fact.new) for fact in found.facts} == {
        "attacks.fgsm": ("Fgsm(aim='true')", "Fgsm(aim='predicted')"),
        "params.seed": (0, 1),
    }
    assert found.only == {"old": ["student attacks cw"], "new": []}
    assert "Only in the old report: student attacks cw." in text(found, ("a", "b"))
    many = {
        "old": [f"student per_class {i} clean" for i in range(7)] + ["teacher clean", "teacher worst_case"],
        "new": [],
    }
    told = text(dataclasses.replace(found, only=many), ("a", "b"))
    assert "Only in the old report: 7 of student, 2 of teacher." in told


def test_a_model_on_one_side_alone_is_no_error() -> None:
    found = differences(document(), document(roles=["student"]))
    assert {one.name for one in found.verdicts} == {"clean_teacher", "robust_teacher"}
    assert all(one.new is None for one in found.verdicts)
    assert "\u2013" in text(found, ("a", "b"))


def test_the_command_prints_text_and_markdown(
    old: dict[str, Any], new: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new["params"] = {"seed": 1, "report": {"gallery_images": 3}}
    paths = [str(tmp_path / name) for name in ("old.json", "new.json")]
    for path, side in zip(paths, (old, new), strict=True):
        write_json(path, side)
    temper(["report", "diff", *paths])
    assert "params.seed  0    1" in capsys.readouterr().out
    temper(["report", "diff", *paths, "--markdown"])
    printed = capsys.readouterr().out
    assert "| params.seed | 0 | 1 |" in printed and "## Rates" in printed
