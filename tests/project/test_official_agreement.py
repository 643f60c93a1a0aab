"""What presets claim of published code stands in the result that `benchmarks/official_agreement.py` wrote."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.official import ours
from benchmarks.official.tape import Step, differences
from benchmarks.official_agreement import CASES, OUT, section_of
from components.foundation.params import typed
from components.training.loop import Recipe
from pipelines.parameters.presets import presets

ROOT = Path(__file__).resolve().parents[2]
CASES_MEASURED = json.loads(OUT.read_text(encoding="utf-8"))["cases"]
TOLERANCE = 1e-6


def head(path: Path) -> str:
    """The comment that a preset begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return " ".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def test_every_preset_as_published_is_measured():
    claims = {name for name, path in presets(ROOT).items() if "as published" in head(path)}
    assert claims and claims <= {row["preset"] for row in CASES_MEASURED}


def test_the_result_has_every_case():
    assert [(row["preset"], row["stage"]) for row in CASES_MEASURED] == [(case.preset, case.stage) for case in CASES]


@pytest.mark.parametrize("row", CASES_MEASURED, ids=lambda row: f"{row['preset']}-{row['stage']}")
def test_steps_agree_and_the_preset_is_still_the_measured_one(row):
    assert row["steps"] >= 10 and {"rate", "momentum", "gradient", "weights", "buffers"} <= set(row["differences"])
    assert all(math.isfinite(value) and value <= TOLERANCE for value in row["differences"].values())
    assert row["largest"] == max(row["differences"].values()) and len(row["commit"]) == 40 and row["equalised"]
    now = json.loads(json.dumps(section_of(row["preset"], row["stage"]), default=str))
    assert with_defaults(row["section"]) == with_defaults(now)


def with_defaults(section: dict[str, Any]) -> dict[str, Any]:
    """The section with the defaults of keys that came after it was compared: they change nothing, and the test below
    takes the steps again.
    """
    return section | {"recipe": typed(Recipe, section["recipe"], "recipe")}


@pytest.mark.parametrize("row", CASES_MEASURED, ids=lambda row: f"{row['preset']}-{row['stage']}")
def test_the_code_still_computes_what_was_compared(row):
    """Else compare again: benchmarks/official_agreement.py."""
    assert ours.alone(row["preset"], row["stage"]) == pytest.approx(row["alone"], rel=1e-9)


def test_a_difference_is_found_in_whichever_step_and_number_it_is():
    def steps(late: float) -> list[Step]:
        named = [{"a": torch.tensor([1.0, -4.0])} for _ in range(3)]
        same = Step(0.1, 0.9, torch.tensor(2.0), *named)
        return [*[same] * 9, same._replace(gradient={"a": torch.tensor([1.0 + late, -4.0])})]

    assert differences(steps(0), steps(0)).largest == 0
    assert differences(steps(0), steps(0.5)).gradient == differences(steps(0), steps(0.5)).largest == 0.125
