"""A flow's forwarder: live, the rest at the end, and gone with the flow, however it ends. With a real MLflow store."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="MLflow is not installed (extra: tracking)")

from components.tracking import mlflow_client, mlflow_runs
from components.tracking.journal import Journal, tracking
from components.tracking.journal_files import Sent, is_sent
from pipelines.running.forwarder import forwarding
from tests.parts.pipeline_toy import is_alive, wait_until

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parents[2]
FLOW = """
import os, time
from pathlib import Path
from components.tracking.journal import Journal
from pipelines.running.forwarder import forwarding
with forwarding(Path.cwd(), ["flow-1"], os.environ, print) as told:
    os.environ |= told
    with Journal.open("train") as journal:
        journal.metrics({"loss": 1.0}, step=0)
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, with tracking on, of the pipeline run `flow-1`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TEMPER_PIPELINE", "flow-1")
    for key in ("TEMPER_TRACKING", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", *mlflow_client.BOUNDS):
        monkeypatch.delenv(key, raising=False)
    return tmp_path


@contextmanager
def told(root: Path, warned: list[str]) -> Iterator[None]:
    """A block of a flow, in which stages are told what the flow tells them."""
    with forwarding(root, ["flow-1"], os.environ, warned.append) as extra, pytest.MonkeyPatch.context() as patch:
        for key, value in extra.items():
            patch.setenv(key, value)
        yield


@pytest.mark.slow
def test_records_arrive_while_a_stage_runs_and_the_rest_at_the_end(project: Path) -> None:
    warned: list[str] = []
    with told(project, warned):
        assert tracking() == "later"
        with Journal.open("train") as journal:
            journal.metrics({"loss": 1.0}, step=0)
            assert wait_until(lambda: Sent.of(journal.path).sent == 2, 60), "live"
        with Journal.open("report") as report:
            report.metrics({"loss": 0.5}, step=0)
    assert is_sent(journal.path) and is_sent(report.path), "the rest is sent when the block is left"
    assert warned == []
    found = mlflow_runs.connect(mlflow_client.place())
    assert found.find({"temper.stage": "report", "temper.pipeline": "flow-1"})


def test_an_absent_tracker_is_said_once_and_nothing_is_lost(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    warned: list[str] = []
    with told(project, warned), Journal.open("train") as journal:
        pass
    assert len(warned) == 1 and "temper records send" in warned[0]
    assert Sent.of(journal.path).sent == 0
    assert "no answer from http://127.0.0.1:1" in Sent.of(journal.path).problem


def test_who_wants_no_forwarder_gets_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.running.forwarder.Child", lambda *_, **__: pytest.fail("a process was started"))
    with forwarding(project, ["flow-1"], {"TEMPER_TRACKING": "off"}, print) as extra:
        assert extra == {}
    with forwarding(project, [], {}, print) as extra:
        assert extra == {}


@pytest.mark.slow
def test_a_killed_flow_leaves_no_forwarder(project: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", FLOW], stdout=subprocess.PIPE, text=True) as flow:
        assert flow.stdout is not None and flow.stdout.readline() == "ready\n"
        (forwarder,) = map(int, Path(f"/proc/{flow.pid}/task/{flow.pid}/children").read_text().split())
        path = project / ".temper/journals/flow-1/train.jsonl"
        assert wait_until(lambda: Sent.of(path).sent == 2, 60)
        assert "records\0forward" in Path(f"/proc/{forwarder}/cmdline").read_text()
        flow.kill()
    assert wait_until(lambda: not is_alive(forwarder), 5)
    assert status_of_train() == "RUNNING"
    later = [sys.executable, "-m", "temper", "records", "send"]
    assert subprocess.run(later, check=False, stdout=subprocess.DEVNULL).returncode == 0
    assert status_of_train() == "KILLED"


def status_of_train() -> str:
    found = mlflow_runs.connect(mlflow_client.place())
    run = found.find({"temper.stage": "train", "temper.pipeline": "flow-1"})
    assert run is not None
    return found.client.get_run(run).info.status
