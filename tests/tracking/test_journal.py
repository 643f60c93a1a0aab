"""The journal: what is written, who continues it, which pipeline run it belongs to, how it is sent. No MLflow."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from components.tracking.delivery import Forwarder, Outbox, Refused, Unreachable, forward, lock_folder
from components.tracking.journal import Journal
from components.tracking.journal_files import (
    Reader,
    Sent,
    end_abandoned,
    is_sent,
    journals,
    pipeline_id,
    pipeline_status,
)

WRITER = """
import sys, time
from components.tracking.journal import Journal
journal = Journal.open("train", sys.argv[1])
journal.metrics({"loss": 1.5}, step=0)
journal.note("ready")
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_TRACKING", "later")
    monkeypatch.delenv("TEMPER_PIPELINE", raising=False)
    monkeypatch.delenv("TEMPER_FLOW_RUN", raising=False)


def events(path: Path) -> list[dict]:
    return [event for _, event in Reader(path).new()]


def killed_writer(root: Path) -> Path:
    """The journal of a process that was killed after it had written."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            (path,) = (root / "journals").glob("*/*.jsonl")
            end_abandoned(path)
            assert Reader(path).new()[-1][1]["event"] == "note", "a living writer is left alone"
        finally:
            process.send_signal(signal.SIGKILL)
    return path


class FakeTracker:
    """Takes records into a list; fails as told."""

    def __init__(self) -> None:
        self.taken: list[dict] = []
        self.failure: Exception | None = None

    def send(self, box: Outbox, events: list) -> None:
        if self.failure:
            raise self.failure
        self.taken.extend(events)


def test_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal.open("train", tmp_path) as journal:
        journal.params({"optimizer": {"steps": 3}})
        journal.metrics({"loss": 0.5}, step=2)
        journal.note("epoch 2")
    found = events(journal.path)
    assert [event["event"] for event in found] == ["open", "params", "metrics", "note", "end"]
    assert found[1]["params"] == {"optimizer": {"steps": 3}}
    assert (found[2]["metrics"], found[2]["step"]) == ({"loss": 0.5}, 2)
    assert found[-1]["status"] == "FINISHED"
    assert [event["time"] for event in found] == sorted(event["time"] for event in found)
    assert capsys.readouterr().out == "epoch 2\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), "FAILED"),
        (SystemExit(1), "FAILED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(143), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
    ids=repr,
)
def test_the_end_says_how(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), Journal.open("train", tmp_path) as journal:
        raise error
    assert events(journal.path)[-1]["status"] == status
    assert pipeline_status(journal.path.parent) == status


def test_a_torn_line_is_skipped_and_never_joined(tmp_path: Path) -> None:
    path = tmp_path / "journals" / pipeline_id(tmp_path) / "train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"time": 1, "event": "open", "stage": "train"}\n{"time": 2, "event": "met')
    with Journal.open("train", tmp_path):
        pass
    assert [(number, event["event"]) for number, event in Reader(path).new()] == [(1, "open"), (3, "open"), (4, "end")]


def test_an_unfinished_stage_continues_its_journal(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), Journal.open("train", tmp_path, inputs="a") as first:
        raise ValueError("no")
    with Journal.open("train", tmp_path, inputs="a") as again:
        pass
    with Journal.open("train", tmp_path, inputs="a") as after_success:
        pass
    assert again.path == first.path
    assert after_success.path.name == "train.2.jsonl"


def test_other_inputs_are_another_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), Journal.open("train", tmp_path, inputs="a"):
        raise ValueError("no")
    with Journal.open("train", tmp_path, inputs="b") as other:
        pass
    assert other.path.name == "train.2.jsonl"
    assert pipeline_status(other.path.parent) == "FINISHED", "the last run of a stage counts"


def test_a_killed_writer_is_noticed(tmp_path: Path) -> None:
    path = killed_writer(tmp_path)
    for _ in range(2):
        end_abandoned(path)
    assert [event["event"] for event in events(path)] == ["open", "metrics", "note", "end"]
    assert events(path)[-1]["status"] == "KILLED"


def test_a_stage_runs_once_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.tracking.journal_files.LOCK_SECONDS", 0.1)
    with Journal.open("train", tmp_path), pytest.raises(ValueError, match="running already"):
        Journal.open("train", tmp_path)


def test_one_pipeline_run_until_the_report(tmp_path: Path) -> None:
    paths = []
    for stage in ("fetch_data", "report", "fetch_data"):
        with Journal.open(stage, tmp_path) as journal:
            paths.append(journal.path.parent)
    assert paths[0] == paths[1] != paths[2]


@pytest.mark.parametrize(("given", "found"), [("", {}), ("{", {}), ("[1]", {}), ('{"seed": 3}', {"seed": "3"})])
def test_labels_of_the_environment_are_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, found: dict[str, str]
) -> None:
    monkeypatch.setenv("TEMPER_LABELS", given)
    with Journal.open("report", tmp_path) as journal:
        pass
    assert events(journal.path)[0]["labels"] == found


def test_the_flow_names_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_PIPELINE", "flow/run 7")
    monkeypatch.setenv("TEMPER_FLOW_RUN", "7")
    with Journal.open("report", tmp_path) as journal:
        pass
    assert journal.path.parent.name == "flow-run-7"
    assert events(journal.path)[0]["flow_run"] == "7"
    assert not (tmp_path / "pipeline.json").exists()


def test_an_artifact_is_kept_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.html"
    file.write_text("first")
    with Journal.open("report", tmp_path) as journal:
        journal.artifact(file, "report")
        file.write_text("second")
        journal.artifact(tmp_path / "absent.html")
    kept = [event for event in events(journal.path) if event["event"] == "artifact"]
    assert [(journal.path.parent / event["kept"][0]).read_text() for event in kept] == ["first"]
    assert "an artifact is not recorded" in capsys.readouterr().err


def test_a_full_disk_does_not_stop_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal.open("train", tmp_path) as journal:
        with monkeypatch.context() as context:
            context.setattr(
                "os.write", lambda file, data: (_ for _ in ()).throw(OSError(28, "No space left on device"))
            )
            journal.metrics({"loss": 1.0}, step=0)
        journal.metrics({"loss": 0.5}, step=1)
    assert [event["step"] for event in events(journal.path) if event["event"] == "metrics"] == [1]
    assert "No space left on device" in capsys.readouterr().err


def test_delivery_is_in_order_and_once(tmp_path: Path) -> None:
    tracker = FakeTracker()
    for stage in ("second", "first"):
        with Journal.open(stage, tmp_path) as journal:
            journal.metrics({"loss": 1.0}, step=0)
            journal.metrics({"loss": 0.5}, step=1)
        time.sleep(0.002)
    for _ in range(2):
        Forwarder(journal.path.parent, "here", lambda place: tracker).send_pending()
    assert [event["event"] for event in tracker.taken] == ["open", "metrics", "metrics", "end"] * 2
    assert [event["stage"] for event in tracker.taken if event["event"] == "open"] == ["second", "first"]
    assert all(is_sent(path) for path in journals(journal.path.parent))


def test_metrics_repeated_after_a_kill_are_sent_once(tmp_path: Path) -> None:
    tracker = FakeTracker()
    path = killed_writer(tmp_path)
    Forwarder(path.parent, "here", lambda place: tracker).send_pending()
    with Journal.open("train", tmp_path) as journal:
        journal.metrics({"loss": 1.5}, step=0)
        journal.metrics({"loss": 1.25}, step=1)
    Forwarder(path.parent, "here", lambda place: tracker).send_pending()
    assert journal.path == path
    assert [event["status"] for event in tracker.taken if event["event"] == "end"] == ["KILLED", "FINISHED"]
    sent = [(key, event["step"]) for event in tracker.taken for key in event.get("metrics", ())]
    assert sent == [("loss", 0), ("loss", 1)]


def test_an_unreachable_tracker_loses_nothing(tmp_path: Path) -> None:
    tracker = FakeTracker()
    tracker.failure = Unreachable("no answer")
    with Journal.open("train", tmp_path) as journal:
        journal.metrics({"loss": 1.0}, step=0)
    forwarder = Forwarder(journal.path.parent, "here", lambda place: tracker)
    forwarder.send_pending()
    assert forwarder.problem == "no answer"
    assert (Sent.of(journal.path).sent, Sent.of(journal.path).problem) == (0, "no answer")
    tracker.failure = None
    forwarder.send_live()
    assert tracker.taken == [], "a tracker that could not be reached is left alone for a while"
    forwarder.send_pending()
    assert forwarder.problem == ""
    assert [event["event"] for event in tracker.taken] == ["open", "metrics", "end"]
    assert Sent.of(journal.path).problem == ""


def test_a_refused_record_does_not_stop_the_others(tmp_path: Path) -> None:
    class Picky(FakeTracker):
        def send(self, box: Outbox, events: list) -> None:
            self.failure = Refused("bad name") if events[0]["event"] == "tags" else None
            super().send(box, events)

    with Journal.open("train", tmp_path) as journal:
        journal.tags({"git.commit": "0"})
    tracker = Picky()
    Forwarder(journal.path.parent, "here", lambda place: tracker).send_pending()
    assert [event["event"] for event in tracker.taken] == ["open", "end"]
    assert Sent.of(journal.path).problem == "MLflow refused a record: bad name"
    assert json.loads(journal.path.with_suffix(".sent.json").read_text())["sent"] == 3


def test_forwarding_is_live_and_sends_the_rest_when_told_to_finish(tmp_path: Path) -> None:
    tracker, finish, told = FakeTracker(), threading.Event(), []
    with Journal.open("train", tmp_path) as journal:
        folders = [journal.path.parent, tmp_path / "journals" / "never begun"]
        served = threading.Thread(
            target=lambda: told.append(forward(tmp_path, folders, "here", lambda _: tracker, finish))
        )
        served.start()
        await_taken(tracker, 1)
        assert lock_folder(journal.path.parent) is None, "one forwarder at a time"
        journal.metrics({"loss": 1.0}, step=0)
        await_taken(tracker, 2)
    finish.set()
    served.join(10)
    assert told == [True]
    assert [event["event"] for event in tracker.taken] == ["open", "metrics", "end"]
    lock = lock_folder(journal.path.parent)
    assert lock is not None, "the lock is given back"
    lock.close()


def test_a_folder_that_another_process_forwards_is_waited_for(tmp_path: Path) -> None:
    tracker, finish, told = FakeTracker(), threading.Event(), []
    with Journal.open("train", tmp_path) as journal:
        pass
    finish.set()
    lock = lock_folder(journal.path.parent)
    assert lock is not None
    folders = [journal.path.parent]
    served = threading.Thread(target=lambda: told.append(forward(tmp_path, folders, "here", lambda _: tracker, finish)))
    served.start()
    served.join(0.5)
    assert served.is_alive() and tracker.taken == []
    lock.close()
    served.join(10)
    assert told == [True] and is_sent(journal.path)


def test_forwarding_tells_what_could_not_be_sent(tmp_path: Path) -> None:
    tracker, finish = FakeTracker(), threading.Event()
    tracker.failure = Unreachable("no answer")
    with Journal.open("train", tmp_path) as journal:
        pass
    finish.set()
    assert not forward(tmp_path, [journal.path.parent], "here", lambda _: tracker, finish)
    assert Sent.of(journal.path).problem == "no answer"


def test_what_an_earlier_run_has_left_is_sent_once_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: dict[str, Path] = {}
    for pipeline, tracker in (("begun", "here"), ("elsewhere", "there"), ("never", ""), ("own", "")):
        monkeypatch.setenv("TEMPER_PIPELINE", pipeline)
        with pytest.raises(SystemExit), Journal.open("train", tmp_path) as journal:
            raise SystemExit(143)
        paths[pipeline] = journal.path
        if tracker:
            Sent(tracker).save(journal.path)
    tracker, finish = FakeTracker(), threading.Event()
    finish.set()
    assert forward(tmp_path, [paths["own"].parent], "here", lambda _: tracker, finish)
    assert sent(paths) == {"own"}, "once told to end, it begins nothing that is not its own"

    finish.clear()
    thread = threading.Thread(
        target=forward, args=(tmp_path, [paths["own"].parent], "here", lambda _: tracker, finish), daemon=True
    )
    thread.start()
    await_sent(paths, {"begun", "own"})
    finish.set()
    thread.join(10)
    assert not thread.is_alive() and sent(paths) == {"begun", "own"}
    assert [event["status"] for event in tracker.taken if event["event"] == "end"] == ["KILLED", "KILLED"]


def sent(paths: dict[str, Path]) -> set[str]:
    """The names of the journals of which all is sent."""
    return {name for name, path in paths.items() if is_sent(path)}


def await_sent(paths: dict[str, Path], want: set[str]) -> None:
    deadline = time.monotonic() + 10
    while sent(paths) != want:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_state_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    noted = {"tracker": "here", "run": "7", "sent": 3, "tried": 4, "problem": "no answer"}
    (tmp_path / "train.sent.json").write_text(json.dumps(noted))
    assert Sent.of(tmp_path / "train.jsonl") == Sent("here", "7", 3, "no answer")


def await_taken(tracker: FakeTracker, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(tracker.taken) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "kept",
    [
        "../../outside/file",
        "/outside/file",
        "files/../../../outside/file",
        "files/0123456789ab/..",
        "files/0123456789ab/../../../../outside/file",
        "files/..",
        "files/../file",
        "",
        ".",
        "files/0123456789ab/a/b",
        3,
        None,
    ],
)
def test_no_journal_can_name_files_elsewhere(kept: object, tmp_path: Path) -> None:
    """What it names is sent to a server, and its folder removed."""
    outside = tmp_path / "outside/file"
    outside.parent.mkdir()
    outside.write_text("mine")
    path = tmp_path / "journals/run/train.jsonl"
    (path.parent / "files/0123456789ab").mkdir(parents=True)
    names = [str(outside) if kept == "/outside/file" else kept]
    lines = [
        {"time": 1, "event": "open", "stage": "train"},
        {"time": 2, "event": "artifact", "kept": names},
        {"time": 3, "event": "artifact", "kept": names[0]},
        {"time": 4, "event": "end", "status": "FINISHED"},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    tracker = FakeTracker()
    Forwarder(path.parent, "there", lambda place: tracker).send_pending()
    assert [event["event"] for event in events(path)] == ["open", "end"]
    assert outside.read_text() == "mine" and path.exists() and is_sent(path)


@pytest.mark.parametrize(
    "line", [{"event": "metrics"}, {"event": "metrics", "metrics": {}}, {"event": "x", "time": "y"}]
)
def test_half_a_record_is_none(line: dict, tmp_path: Path) -> None:
    path = tmp_path / "journals/run/train.jsonl"
    path.parent.mkdir(parents=True)
    ends = {"time": 1, "event": "end", "status": "FINISHED"}
    path.write_text(f"{json.dumps({'time': 1} | line)}\n{json.dumps(ends)}\n")
    Forwarder(path.parent, "there", lambda place: FakeTracker()).send_pending()
    assert [event["event"] for event in events(path)] == ["end"] and is_sent(path)
