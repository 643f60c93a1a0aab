"""What comes before a run: a short lock of DVC's is waited for, and a run that is refused has changed nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ruamel.yaml")
pytest.importorskip("dvc")

from dvc.exceptions import DvcException

from components.foundation.errors import InputError
from pipelines import graph
from pipelines.parameters.change import delta_of
from pipelines.running import prepare

BUSY = DvcException("'data/raw.safetensors' is busy, it is being blocked by: (PID 7): dvc repro")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One whose change of params.yaml is a check's, and whose stages DVC is asked for by a test."""
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    monkeypatch.setattr(prepare, "change", lambda root, *_: (root / "params.yaml").write_text("seed: 1\n"))
    monkeypatch.setattr(graph, "BUSY_POLL_SECONDS", 0.01)
    return tmp_path


def answers(*given: Any) -> Callable[[Path], Any]:
    """What DVC answers, one after the other."""
    waiting = list(given)

    def read(_: Path) -> Any:
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return read


def test_a_short_lock_of_dvc_is_waited_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import networkx

    monkeypatch.setattr(graph, "_read", answers(BUSY, BUSY, (networkx.DiGraph(), set())))
    assert prepare.prepared(project, None, [], []) == {}
    assert (project / "params.yaml").read_text() == "seed: 1\n"


@pytest.mark.parametrize("error", [BUSY, DvcException("something else")], ids=["busy", "other"])
def test_a_refused_run_leaves_params_yaml(error: Exception, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(graph, "_read", answers(*[error] * 100))
    with pytest.raises(InputError, match=str(error).split()[-1]):
        prepare.prepared(project, None, [], [])
    assert (project / "params.yaml").read_text() == "seed: 0\n"


@pytest.mark.parametrize("twice", [["seed=1", "seed=2"], ["a.b=1", "c=2", " a.b =1"]])
def test_a_key_is_set_once(twice: list[str]) -> None:
    with pytest.raises(InputError, match=r"^--set .*: (seed|a\.b) is set twice$"):
        delta_of(twice)
