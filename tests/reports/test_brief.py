"""What is read first elsewhere than on the page: names and descriptions of runs and versions, on made-up numbers."""

import re
from pathlib import Path

import pytest
from torch import Generator

from components.reports.robustness.brief import first_line, model_card, run_numbers, run_title
from components.reports.robustness.document import best_models, rates
from components.statistics.number_text import bounds, percent
from tests.parts.evaluation_files import built, document, evaluation, outcomes, run_stage, write_evaluation


def test_the_stage_tells_what_a_run_is_called_and_what_it_found(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    told = run_stage(tmp_path, not_worse_than={"clean": None, "worst_case": None})
    worst = 100 * told.numbers["student.worst_case"]
    parts = ["shapes", "student", f"worst case {worst:.1f} %", told.told["verdict"], told.told["decision"]]
    assert told.title == " \u00b7 ".join(parts)
    assert told.text.startswith(f"{told.told['decision']}: student \u00b7 worst case **{worst:.1f} %** (")
    assert told.images == ("shapes", True)
    assert told.shown[0] == "report/robustness.dated.html"
    assert told.card.splitlines()[0] == told.text.splitlines()[0]
    assert next(iter(told.version)) == "decision", "the registry shows tags in their order"


def test_a_tracker_gets_the_headline_first_and_in_percent() -> None:
    made = document()
    numbers = list(run_numbers(made).items())
    worst, clean = made.models["student"].worst_case, made.models["student"].clean
    assert worst is not None
    assert numbers[:4] == [
        ("worst case percent", round(100 * worst.value, 1)),
        ("clean percent", round(100 * clean.value, 1)),
        ("student.worst_case", worst.value),
        ("student.w_robust", made.models["student"].w_robust["worst_case"].value),
    ]
    assert len(numbers) == len(dict(numbers))


@pytest.mark.parametrize("seed", range(20))
def test_a_card_has_every_percentage_with_interval_and_n(seed: int) -> None:
    size = 20 + 7 * seed
    found = outcomes(size, Generator().manual_seed(seed))
    made = built(evaluation(size), found)
    for name in best_models(made):
        rows = re.findall(r"^\| (.+) \| (.+) \| (.+) % \| (\d+) \|$", model_card(made, name), re.MULTILINE)
        measured = rates(made.models[name])
        assert sorted(row[1:] for row in rows) == sorted(
            (percent(rate.value), bounds(rate), str(rate.n)) for rate in measured.values()
        )
        assert [row[0] for row in rows[:2]] == ["Worst case", "Clean"]
        assert first_line(made, name).count(f"n = {size}") == 2


def test_a_model_that_was_not_attacked_has_a_name_and_a_card() -> None:
    made = document()
    bare = made.model_copy(
        update={
            "models": {
                k: m.model_copy(update={"worst_case": None, "attacks": {}, "cascade": []})
                for k, m in made.models.items()
            }
        }
    )
    assert "not attacked" in run_title(bare)
    assert "Worst case" not in model_card(bare, "student")
