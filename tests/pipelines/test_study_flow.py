"""The flow `study`: a task per job, its ends, and the table as an artifact."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prefect")

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from pipelines.flows import study as study_flow
from tests.parts.study_toy import make_toy

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: None) -> Path:
    """The toy project as the working directory, where stages note that they started."""
    monkeypatch.chdir(make_toy(tmp_path / "toy"))
    monkeypatch.setenv("TOY_JOURNAL", str(tmp_path / "journal"))
    return tmp_path / "toy"


def run(**given: Any) -> State[Any]:
    return study_flow.study(**{"name": "toy", "retry_delay_seconds": 0, **given}, return_state=True)  # pyright: ignore


def artifacts(key: str) -> list[Any]:
    with get_client(sync_client=True) as client:
        return [one for one in client.read_artifacts() if one.key == key]


def started(toy: Path) -> list[str]:
    return [line.split()[0] for line in (toy.parent / "journal").read_text().splitlines()]


def test_the_flow_runs_every_job_once_and_shows_the_table(toy):
    state = run(seeds=[0], jobs=2)
    assert state.is_completed() and state.message == "9 jobs" and len(started(toy)) == 9
    assert artifacts("study-toy-cpu")[0].data == (toy / "studies/toy/results/cpu.md").read_text()
    assert run(seeds=[0]).is_completed() and len(started(toy)) == 9


def test_a_refused_job_is_not_retried_and_a_failed_one_is(toy):
    study = toy / "studies/toy/study.yaml"
    text = study.read_text()
    study.write_text(text.replace("slow: {}", "slow: {train_robust_teacher.does: refuses}"))
    state = run(seeds=[0], arms=["slow"])
    assert state.is_failed() and str(state.message).endswith("does: got refuses")
    assert started(toy).count("train_robust_teacher") == 1
    study.write_text(text.replace("slow: {}", "slow: {train_robust_teacher.does: fails}"))
    state = run(seeds=[0], arms=["slow"], retries=1)
    assert state.is_failed() and str(state.message).endswith("RuntimeError: no luck (exit code 1)")
    assert started(toy).count("train_robust_teacher") == 3
    assert run(seeds=[0], arms=["nobody"]).name == "Refused"


def test_what_runs_too_long_is_stopped(toy):
    preset = toy / "presets/digits.yaml"
    preset.write_text(preset.read_text().replace("does: works", "does: hangs"))
    state = run(seeds=[0], arms=["slow"], stop_after=5)
    assert state.name == "Stopped" and "jobs are left" in str(state.message)
    assert started(toy) == ["fetch_data", "normalize_data", "train_robust_teacher"]
