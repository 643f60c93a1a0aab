"""The flow on a toy graph: order, cache, retries, mistakes, limits, and the same dvc.lock as `dvc repro`."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

pytest.importorskip("prefect")
pytest.importorskip("dvc")

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.settings import PREFECT_API_URL

from components.tracking.journal_files import Reader, Sent
from pipelines.flows import harden as flow
from pipelines.parameters import change as parameters
from pipelines.running import process, stage
from pipelines.running.process import ProcessEnd
from pipelines.running.tasks import FlowRun, environment
from temper.cli import main as temper
from tests.parts.pipeline_toy import PARAMS, PYTHON, dvc, is_alive, journal, started, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")
ROOT = Path(__file__).resolve().parents[2]
RECORDING = """
import sys, time
from components.foundation.process import as_process
from components.tracking.journal import Journal
with as_process(sys.argv[1]), Journal.open(sys.argv[1]) as journal:
    journal.note("begun")
    time.sleep(60)
"""


Harden = Callable[..., State[Any]]


@pytest.fixture
def run(toy: Path, server: None) -> Harden:
    """Runs the flow on the toy and returns its final state."""
    return lambda **given: flow.harden(**{"retry_delay_seconds": 0, **given}, return_state=True)  # pyright: ignore


def test_flow_runs_target_with_its_upstream(toy: Path, run: Harden) -> None:
    state = run(targets=["left"], set=["left.value=5"])
    assert state.is_completed() and state.message == "2 stages ran, 0 were up to date"
    assert started(toy) == ["fetch", "left"]
    assert (toy / "left.txt").read_text() == "51"


@pytest.mark.slow
def test_flow_and_dvc_repro_write_the_same_lock(toy: Path, run: Harden, pristine: Path, tmp_path: Path) -> None:
    assert run().is_completed()
    lines = journal(toy)
    assert lines.index("end fetch") < min(lines.index("start left"), lines.index("start right"))
    assert lines.index("start join") > max(lines.index("end left"), lines.index("end right"))
    assert "up to date" in dvc(toy, "status")
    assert "up to date" in dvc(toy, "repro")
    assert len(started(toy)) == 4
    twin = tmp_path / "twin"
    shutil.copytree(pristine, twin)
    dvc(twin, "repro")
    assert (twin / "dvc.lock").read_bytes() == (toy / "dvc.lock").read_bytes()


@pytest.mark.slow
def test_flow_runs_only_what_is_stale(toy: Path, run: Harden, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run().is_completed()
    with monkeypatch.context() as patch:
        patch.setattr(process, "run", lambda *_, **__: pytest.fail("a process was started"))
        assert run().message == "0 stages ran, 4 were up to date"
    (toy / ".temper" / "journal").unlink()
    assert run(set=["left.value=9"]).message == "2 stages ran, 2 were up to date"
    assert started(toy) == ["left", "join"]
    (toy / ".temper" / "journal").unlink()
    assert run(targets=["right"], force=True).is_completed()
    assert started(toy) == ["fetch", "right"]
    assert "up to date" in dvc(toy, "status")


@pytest.mark.slow
def test_flow_finishes_other_branch_and_retries_only_accidents(toy: Path, run: Harden) -> None:
    state = run(set=["left.does=fails once", "right.does=refuses"])
    assert state.is_failed() and state.name == "Refused"
    assert state.message == "right: params.yaml: right.value: got 3, want 4"
    assert sorted(started(toy)) == ["fetch", "left", "left", "right"]
    assert (toy / "left.txt").exists()
    state = run(set=["right.does=works", "join.does=fails once"], retries=0)
    assert state.is_failed() and state.message == "join: RuntimeError: no luck (exit code 1)"


@pytest.mark.slow
def test_flow_stops_a_stage_at_its_time_limit(toy: Path, run: Harden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SEQUENCE", ((signal.SIGINT, 0.5), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)))
    limit = 15.0
    state = run(set=["fetch.does=hangs"], targets=["fetch"], retries=0, stage_hours=limit / 3600)
    assert state.name == "TimedOut" and state.message == "fetch: stopped after its time limit of 15 s"
    assert not is_alive(int((toy / ".temper" / "pid").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_line_interrupted_leaves_no_process(toy: Path, number: int, server: None) -> None:
    parameters.change(toy, None, ["fetch.does=hangs"])
    told = environment(PYTHONPATH=str(ROOT), PREFECT_API_URL=str(PREFECT_API_URL.value()))
    child = subprocess.Popen([PYTHON, "-m", "temper", "harden"], cwd=toy, env=told, stderr=subprocess.DEVNULL)
    pid = toy / ".temper" / "pid"
    assert wait_until(lambda: pid.exists() and pid.read_text() != "", 120)
    child.send_signal(number)
    assert child.wait(timeout=60) == 130
    assert not is_alive(int(pid.read_text()))
    assert started(toy) == ["fetch"]


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where temporary servers have their database, which takes them seconds to make."""
    return tmp_path_factory.mktemp("prefect")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_temporary_server_ends_with_the_command(toy: Path, number: int, prefect_home: Path) -> None:
    (toy / "work.py").write_text("import pathlib, time; pathlib.Path('begun').touch(); time.sleep(60)")
    told = environment(PYTHONPATH=str(ROOT), PREFECT_HOME=str(prefect_home), PREFECT_API_URL="", TEMPER_TRACKING="off")
    child = subprocess.Popen([PYTHON, "-m", "temper", "harden"], cwd=toy, env=told, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: (toy / "begun").exists(), 120)
    assert any("create_app" in Path(f"/proc/{one}/cmdline").read_text() for one in processes_in(toy)), "no server"
    child.send_signal(number)
    assert child.wait(timeout=60) == 130
    assert processes_in(toy) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "unknown stage 'nope' (allowed: join, left, right, fetch)"),
        (["--preset", "nope"], "--preset: unknown 'nope' (allowed: digits, toy)"),
        (["--set", "devise=x"], "--set: no key 'devise' (allowed: compute, fetch, left, right, join)"),
        (["--set", "compute.device=toaster"], "params.yaml: compute.device: got 'toaster', want cpu or cuda"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_before_a_server_starts(
    toy: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(flow, "harden", lambda **_: pytest.fail("Prefect was asked to run the flow"))
    try:
        assert temper(["harden", *arguments]) == 2
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().err == f"error: {said}\n"
    assert (toy / "params.yaml").read_text() == PARAMS and not journal(toy)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_flow_forwards_records_and_no_process_of_it_outlives_it(toy: Path, number: int, server: None) -> None:
    (toy / "work.py").write_text(RECORDING)
    told = environment(PYTHONPATH=str(ROOT), PREFECT_API_URL=str(PREFECT_API_URL.value()))
    told |= {"TEMPER_TRACKING": "", "MLFLOW_TRACKING_URI": ""}
    child = subprocess.Popen([PYTHON, "-m", "temper", "harden"], cwd=toy, env=told, stderr=subprocess.DEVNULL)
    journals = toy / ".temper" / "journals"
    assert wait_until(lambda: any(Sent.of(path).sent == 2 for path in journals.glob("*/fetch.jsonl")), 120), "live"
    child.send_signal(number)
    child.wait(timeout=60)
    assert wait_until(lambda: not processes_in(toy))
    (path,) = journals.glob("*/fetch.jsonl")
    assert [event["event"] for _, event in Reader(path).new()] == ["open", "note", "end"]


def processes_in(folder: Path) -> list[str]:
    """The processes whose working directory this is."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            found += [place.parent.name] if place.readlink() == folder else []
    return [number for number in found if number != str(os.getpid()) and is_alive(int(number))]


@pytest.mark.slow
def test_command_line_prints_stages_and_fails_in_one_line(toy: Path, server: None) -> None:
    told = environment(PYTHONPATH=str(ROOT), PREFECT_API_URL=str(PREFECT_API_URL.value()))
    call = [PYTHON, "-m", "temper", "harden", "fetch", "--retries", "0"]
    good = subprocess.run(call, cwd=toy, env=told, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    assert re.search(r"\| fetch \| > python work.py fetch", good.stderr)
    bad = subprocess.run([*call, "--set", "devise=x"], cwd=toy, env=told, capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stderr.splitlines()[-1].startswith("error: --set: no key 'devise' (allowed: compute")
    assert "Traceback" not in bad.stderr


@pytest.mark.slow
def test_an_alarm_of_the_sentinel_becomes_an_event(toy: Path, run: Harden) -> None:
    state = run(targets=["fetch"], set=["fetch.does=collapses"])
    assert state.is_completed()
    with get_client(sync_client=True) as client:
        (task,) = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[_flow_run(state)])))
        found: list[Event] = []

        def arrived() -> bool:
            wanted = EventFilter(event=EventNameFilter(name=[stage.ALARM_EVENT]))
            found[:] = client.read_events(filter=wanted, limit=10).events
            return bool(found)

        assert wait_until(arrived)
    (event,) = found
    assert event.payload == {
        "stage": "fetch",
        "epoch": "7.25",
        "what": "catastrophic overfitting (FGSM 81.0 %, PGD 12.5 %, n = 200)",
        "done": "stopped",
    }
    assert event.resource.id == f"prefect.task-run.{task.id}"
    assert f"prefect.flow-run.{_flow_run(state)}" in [one.id for one in event.related]


def _flow_run(state: State[Any]) -> UUID:
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "nope"}, "--preset: unknown 'nope' (allowed: digits, toy)"),
        ({"set": ["compute.device=toaster"]}, "params.yaml: compute.device: got 'toaster', want cpu or cuda"),
        ({"targets": ["nope"]}, "unknown stage 'nope' (allowed: join, left, right, fetch)"),
    ],
    ids=str,
)
def test_flow_refuses_before_anything_runs(toy: Path, run: Harden, given: dict[str, Any], message: str) -> None:
    state = run(**given)
    assert state.name == "Refused" and state.message == message
    assert (toy / "params.yaml").read_text() == PARAMS
    assert not journal(toy)


@pytest.mark.slow
def test_without_a_student_the_teachers_are_evaluated(toy: Path, run: Harden, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose student is refused ends as refused, and with a report on what could be trained."""
    evaluated: list[list[str]] = []
    whole = FlowRun.process

    def recorded(self: FlowRun, command: list[str], log: Callable[[str], None], **extra: str) -> ProcessEnd:
        if "evaluate" not in command:
            return whole(self, command, log, **extra)
        evaluated.append(command)
        return ProcessEnd(returncode=0, lines=(), ended_by="itself")

    monkeypatch.setattr(FlowRun, "process", recorded)
    monkeypatch.setattr(flow, "TEACHERS", ("left", "right"))
    monkeypatch.setattr(flow, "STUDENT", "join")
    state = run(set=["join.does=refuses"])
    assert state.name == "Refused" and "join" in str(state.message)
    assert [part for part in evaluated[0] if "=" in part] == [
        f"--model={n}=models/{n}.safetensors" for n in ("left", "right")
    ]
    assert evaluated[0][-2:] == ["--out", "evaluation/teachers"] and len(evaluated) == 1
    # Not where a teacher is missing, too, and not where all is well.
    run(set=["left.does=refuses"])
    run(set=["left.does=works", "join.does=works"])
    assert len(evaluated) == 1
