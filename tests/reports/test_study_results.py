"""The committed results of the studies: read, and told again, they are the same to the last byte."""

from pathlib import Path

import pytest

from components.reports.study.contents import SentinelRecord, Study
from components.reports.study.document import over_seeds
from components.reports.study.figures import figure
from components.reports.study.tables import arms, markdown, terminal, what_alarms_did
from components.statistics.documents import read_document, write_document
from components.statistics.intervals import spread

ROOT = Path(__file__).parents[2]
RESULTS = sorted(ROOT.glob("studies/*/results/*.json"))


@pytest.fixture(scope="module", params=RESULTS, ids=lambda path: path.parts[-3])
def result(request: pytest.FixtureRequest) -> tuple[Path, Study]:
    return request.param, read_document(Study, request.param)


def test_the_document_is_the_same_again(result: tuple[Path, Study], tmp_path: Path) -> None:
    path, study = result
    write_document(tmp_path / "again.json", study)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_tables_and_figure_are_the_same_again(result: tuple[Path, Study]) -> None:
    path, study = result
    assert markdown(study) == path.with_suffix(".md").read_text(encoding="utf-8")
    assert figure(study) == path.with_suffix(".svg").read_text(encoding="utf-8")
    assert terminal(study).count("\n") == len(arms(study)) + 4


def test_means_over_seeds_follow_from_the_seeds(result: tuple[Path, Study]) -> None:
    for arm in result[1].arms.values():
        assert over_seeds(list(arm.seeds.values())) == arm.over_seeds
    name, arm = next(iter(result[1].arms.items()))
    found = spread([seed.last["clean"].value for seed in arm.seeds.values()])
    assert arm.over_seeds["last"]["clean"].mean == pytest.approx(found.mean, abs=1e-6), name


def test_one_seed_has_no_spread(result: tuple[Path, Study]) -> None:
    arm = next(iter(result[1].arms.values()))
    one = over_seeds([next(iter(arm.seeds.values()))])["best"]["clean"]
    assert (one.n, one.deviation, one.low, one.high) == (1, None, None, None)


def test_many_alarms_of_one_kind_take_one_cell() -> None:
    def told(*done: tuple[str, float]) -> str:
        events = [{"action": action, "epoch": epoch, "rules": [], "line": ""} for action, epoch in done]
        return what_alarms_did(SentinelRecord.model_validate({"events": events, "leads": {}}))

    notes = ("note", 2.5), ("note", 3)
    assert told(*notes, ("note", 9), ("roll_back", 9.5), ("stop", 12)) == "note 2.5–9 (3); roll back 9.5; stop 12"
    assert told(*notes) == "note 2.5; note 3"
    assert what_alarms_did(None) == told() == "–"
