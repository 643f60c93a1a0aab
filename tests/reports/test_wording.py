"""The verdict and the main table in a terminal: first things first, aligned, nothing called what it is not."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from components.foundation.storage import write_json
from components.reports.robustness.contents import Report
from components.reports.robustness.document import best_models
from components.reports.robustness.table import markdown_table, text_table, worst_of
from components.reports.wording import WIDTH, epsilon_text, measured_text
from components.statistics.documents import read_document
from components.statistics.number_text import points
from temper.cli import main as temper
from tests.parts.evaluation_files import (
    ATTACKS,
    LAST_ATTACKS,
    ROLES,
    built,
    document,
    evaluation,
    outcomes,
    run_stage,
)


@pytest.mark.parametrize("num_attacks", [1, 4, 12])
def test_the_text_table_is_aligned_and_narrow(num_attacks: int) -> None:
    found, described = outcomes(60, torch.Generator().manual_seed(7)), evaluation(60)
    described["attacks"] = {f"attack_{i}": "Attack()" for i in range(num_attacks)}
    found |= {f"{role}/attack_{i}": found[f"{role}/worst_case"] for role in ROLES for i in range(num_attacks)}
    lines = text_table(built(described, found)).splitlines()
    (said,) = [line for line in lines if line.startswith("Measurement: ")]
    assert said == "Measurement: student trusted; clean teacher trusted; robust teacher suspect (square helps)"
    assert max(map(len, lines)) <= WIDTH
    heading = next(place for place, line in enumerate(lines) if line.startswith("shapes, 60 test images"))
    table = lines[heading + 3 : -4]
    assert {len(line) for line in table[1:] if "±" in line} == {len(table[0])}
    assert table[0] == "\u2500" * len(table[0])


def test_every_rate_of_the_table_has_an_interval(made_up: Report) -> None:
    rows = [line for line in markdown_table(made_up).splitlines() if line.startswith("| ") and "±" in line]
    # Clean, the attacks, the cascade, worst case, the same balanced, W-Robust.
    assert len(rows) == 5 + len(ATTACKS)
    assert all(line.count("±") == len(best_models(made_up)) for line in rows)
    assert [row.split(" | ")[0] for row in rows[:3]] == ["| worst case", "| W-Robust", "| clean"], "what decides first"
    assert "\nMeasurement: student trusted; " in markdown_table(made_up)


@pytest.mark.parametrize(
    ("name", "attacks", "text"),
    [
        ("autoattack", {}, "AutoAttack"),
        ("autoattack", {"fgsm": "Fgsm()"}, "AutoAttack and 1 more attack"),
        ("quick", {"fgsm": "Fgsm()", "cw": "Cw()"}, "APGD-CE + APGD-T and 2 more attacks"),
        ("custom", {}, "APGD ce 2 + APGD-T"),
    ],
)
def test_autoattack_is_called_so_only_where_it_is_one(name: str, attacks: dict[str, str], text: str) -> None:
    found, described = outcomes(60, torch.Generator().manual_seed(7), ["student"]), evaluation(60, ["student"])
    steps = {"apgd_ce_2" if name == "custom" else "apgd_ce": "Apgd()", "apgd_t": "Apgd()"}
    described |= {"attacks": attacks, "cascade": {"name": name, "attacks": steps}}
    found["student/cascade/apgd_ce_2"] = found["student/cascade/apgd_ce"]
    kept = [found[f"student/{name}"] for name in ("clean", "cascade/apgd_t", *attacks)]
    found["student/worst_case"] = torch.stack(kept).amin(0)
    for attack in LAST_ATTACKS:
        if attack not in attacks:
            del found[f"student_last/{attack}"]
    last = [found["student_last/clean"], *(found[f"student_last/{name}"] for name in attacks if name in LAST_ATTACKS)]
    found["student_last/worst_case"] = torch.stack(last).amin(0)
    made = built(described, found)
    assert worst_of(made, "student") == text
    assert ("AutoAttack" in text_table(made)) == (name == "autoattack")


def test_models_of_any_name_and_number_make_a_report() -> None:
    one = document(roles=["resnet"])
    assert "\nMeasurement: resnet trusted\n" in text_table(one)
    many = document(roles=[f"width_{2**i}" for i in range(6)])
    assert len(best_models(many)) == 6 and "width 32 trusted" in text_table(many)


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [("1/5", "1/5 (51/255)"), ("8/255", "8/255"), ("0", "0"), ("1/2", "1/2"), ("1/51", "1/51 (5/255)")],
)
def test_epsilon_is_shown_in_grey_levels_where_whole(epsilon: str, text: str) -> None:
    assert epsilon_text(epsilon) == text


@pytest.mark.parametrize(("value", "text"), [(-0.012, "\u22121.2"), (0.0504, "+5.0"), (0.0, "0.0"), (-0.0001, "0.0")])
def test_differences_are_signed_points(value: float, text: str) -> None:
    assert points(value) == text


def test_what_was_measured_is_put_in_words() -> None:
    pair = {"first": "clean", "then": "fgsm", "n": 300, "right_first": 290, "right_then": 240, "gained": 0, "p": 1.0}
    assert measured_text(pair) == "clean 290 \u2192 FGSM 240 of 300 right (\u221216.7 points); p 1"
    assert measured_text({"low_end": 0.123456, "finite": True}) == "low end 0.1235, finite yes"
    assert measured_text({}) == measured_text(None) == "\u2013"


def test_the_command_prints_table_and_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_stage(folder)
    temper(["report", f"{folder}/reports/robustness.json"])
    table = text_table(read_document(Report, folder / "reports/robustness.json"))
    assert capsys.readouterr().out == f"{table}\n\nReport: {folder}/reports/robustness.dated.html\n"
    temper(["report", f"{folder}/reports/robustness.json", "--markdown"])
    assert capsys.readouterr().out.rstrip().endswith(f"Report: `{folder}/reports/robustness.dated.html`")


@pytest.mark.parametrize("content", [None, {"schema": "other"}, [1]])
@pytest.mark.parametrize("command", [[], ["diff"]])
def test_the_command_refuses_other_files_in_one_line(
    tmp_path: Path, content: Any, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        write_json(tmp_path / "robustness.json", content)
    path = str(tmp_path / "robustness.json")
    assert temper(["report", *command, path, path] if command else ["report", path]) == 2
    error = capsys.readouterr().err
    assert re.match(r"error: .*robustness\.json: ", error) and error.count("\n") == 1
