"""What `benchmarks/student_agreement.py` found stands in its result, and holds of the methods as they are now."""

import json
import math

import pytest

from benchmarks.official import students
from benchmarks.student_agreement import OUT
from components.distillation import DISTILLATIONS

ROWS = {row["name"]: row for row in json.loads(OUT.read_text(encoding="utf-8"))["cases"]}
TOLERANCE = 1e-6
# Compared under a preset, without official code, or not yet.
ELSEWHERE = {"b_mtard", "akd", "kd_swa", "rslad", "mtard", "ciard", "peer"}
every = pytest.mark.parametrize("case", students.CASES, ids=lambda case: case.name)


def test_every_student_with_official_code_is_compared():
    assert list(ROWS) == [case.name for case in students.CASES]
    assert {case.method["name"] for case in students.CASES} == set(DISTILLATIONS) - ELSEWHERE


@every
def test_steps_agree(case):
    row = ROWS[case.name]
    assert row["steps"] == students.EPOCHS * students.BATCHES and len(row["commit"]) == 40 and row["equalised"]
    assert {"rate", "momentum", "loss", "gradient", "weights", "buffers"} - set(case.apart) == set(row["differences"])
    assert all(math.isfinite(value) and value <= TOLERANCE for value in row["differences"].values())
    assert row["largest"] == max(row["differences"].values())
    assert (row["method"], row["igdm"]) == (json.loads(json.dumps(case.method)), case.igdm)


@every
def test_the_code_still_computes_what_was_compared(case):
    """Else compare again: benchmarks/student_agreement.py."""
    assert students.alone(case) == pytest.approx(ROWS[case.name]["alone"], rel=1e-9)
