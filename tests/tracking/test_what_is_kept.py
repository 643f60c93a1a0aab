"""What a run leaves behind: nothing with TEMPER_TRACKING=off, no secret anywhere, no name that leads elsewhere."""

import json
import os
import random
from pathlib import Path

import pytest

from components.foundation.errors import InputError
from components.tracking import delivery, journal_files
from components.tracking.journal import Journal
from temper.cli import main as temper

SECRET = "SECRETPW"
ADDRESSES = {
    "MLFLOW_TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:9/path",
    "PREFECT_API_URL": f"http://me:{SECRET}@127.0.0.1:9/api",
    "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://me:{SECRET}@127.0.0.1:9/db",
    "http_proxy": f"http://me:{SECRET}@127.0.0.1:9",
    "https_proxy": f"http://me:{SECRET}@127.0.0.1:9",
    "all_proxy": f"socks5://me:{SECRET}@127.0.0.1:9",
}
NAMES = ["../../x", "..", ".", "", "/tmp/x", "a/b", ".hidden", "x" * 300, "a\nb", "a\0b", "é"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("TEMPER_PIPELINE", "TEMPER_FLOW_RUN", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def a_stage(name: str = "report") -> None:
    with Journal.open(name) as journal:
        journal.params({"a": 1})
        Path("page.html").write_text("page")
        journal.artifact("page.html")
        journal.note(f"fetched from {ADDRESSES['http_proxy']}")


def kept(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_off_keeps_nothing(place, monkeypatch):
    monkeypatch.setenv("TEMPER_TRACKING", "off")
    for stage in ("fetch_data", "report"):
        a_stage(stage)
        with pytest.raises(ZeroDivisionError), Journal.open(stage):
            _ = 1 / 0
    assert [name for name in kept(place) if "journals" in name] == []
    assert not list((place / ".temper").rglob("page.html"))


def test_off_leaves_what_was_kept_before(place, monkeypatch):
    monkeypatch.setenv("TEMPER_TRACKING", "later")
    with pytest.raises(ZeroDivisionError), Journal.open("fetch_data"):
        _ = 1 / 0
    (path,) = (place / ".temper").rglob("*.jsonl")
    monkeypatch.setenv("TEMPER_TRACKING", "off")
    a_stage("fetch_data")
    assert '"FAILED"' in path.read_text()


def test_another_switch_is_refused(monkeypatch):
    monkeypatch.setenv("TEMPER_TRACKING", "of")
    with pytest.raises(InputError, match=r"TEMPER_TRACKING: got 'of' \(allowed: on, later, off\)"):
        a_stage()


def test_no_secret_is_left_behind(place, monkeypatch, capfd):
    """With a tracker that is away, every command and the forwarder's log."""
    for name, value in ADDRESSES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TEMPER_TRACKING", "on")
    monkeypatch.setenv("PYTHONPATH", str(Path(journal_files.__file__).parents[2]))
    a_stage()
    for command in (["records", "send"], ["records", "status"], ["promote", "models:/a/1"], ["compare", "0" * 32, "."]):
        temper(command)
    shown = "".join(capfd.readouterr())
    assert "127.0.0.1:9" in shown and SECRET not in shown, shown
    files = [path for path in place.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".sent.json") for path in files)
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_open_pipeline_has_a_name_or_there_is_none(name, place):
    Path(".temper").mkdir()
    Path(".temper/pipeline.json").write_text(json.dumps({"id": name}))
    found = journal_files.pipeline_id(Path(".temper"))
    assert found != name and journal_files.open_pipeline(Path(".temper")) == found
    assert journal_files.pipeline_id(Path(".temper")) == found


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "x" * 300, "é" * 200])
def test_the_flows_name_is_checked(name, place, monkeypatch):
    monkeypatch.setenv("TEMPER_PIPELINE", name)
    with pytest.raises(InputError, match="TEMPER_PIPELINE: got "):
        journal_files.pipeline_id(place)
    assert kept(place) == []


BROKEN = [b"", b"{", b"null", b"[]", b"3", b'"x"', b'{"id": 3}', b'{"id": null}', b"\xff\xfe", b"[" * 100_000, b"NaN"]


@pytest.mark.parametrize("content", BROKEN)
def test_state_that_a_power_cut_has_broken_counts_as_absent(content, place, monkeypatch):
    monkeypatch.setenv("TEMPER_TRACKING", "later")
    Path(".temper").mkdir()
    Path(".temper/pipeline.json").write_bytes(content)
    a_stage("fetch_data")
    (path,) = Path(".temper").rglob("*.jsonl")
    path.with_suffix(".sent.json").write_bytes(content)
    assert journal_files.Sent.of(path) == journal_files.Sent()
    whole = path.read_bytes()
    path.write_bytes(whole + content + b"\n" + whole)
    assert len(journal_files.Reader(path).new()) == 2 * len(whole.splitlines())
    assert temper(["records", "status"]) == 0
    a_stage("fetch_data")


def test_journals_that_were_sent_do_not_pile_up(place):
    root, rng = place / ".temper", random.Random(1)
    names = [f"run-{number:02d}" for number in range(30)]
    unsent = set(rng.sample(names, 4))
    for number, name in enumerate(names):
        folder = root / "journals" / name
        folder.mkdir(parents=True)
        path = folder / "report.jsonl"
        path.write_text('{"time": 1, "event": "open"}\n{"time": 2, "event": "end", "status": "FINISHED"}\n')
        journal_files.Sent("here", "run", 0 if name in unsent else 2).save(path)
        os.utime(path, (number, number))
    delivery.forget_old(root)
    left = {folder.name for folder in delivery.folders(root)}
    assert left == unsent | set([name for name in names if name not in unsent][-delivery.KEPT_SENT :])
