"""A child ends when told to, when its time is up, when its starter is gone, and when its starter is interrupted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.foundation.child import Child

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "from components.foundation.child import finish_requested; import sys; finish = finish_requested(); "
OBEYS = BEGIN + "print('ready', flush=True); finish.wait(); sys.exit(3)"
HANGS = BEGIN + "import time; print('ready', flush=True); time.sleep(60)"
STARTER = """
import os, sys, time
from pathlib import Path
from components.foundation.child import Child
child = Child([sys.executable, "-c", sys.argv[1]], log=Path(sys.argv[2]))
print(child.process.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def child(code: str, log: Path) -> Child:
    started = Child([sys.executable, "-c", code], log=log)
    await_ready(log)
    return started


def await_ready(log: Path) -> None:
    deadline = time.monotonic() + 20
    while not log.exists() or log.read_text() != "ready\n":
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def is_gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


def test_it_finishes_when_told_to(tmp_path: Path) -> None:
    assert child(OBEYS, tmp_path / "log").finish(20) == 3


def test_one_that_ended_before_is_no_error(tmp_path: Path) -> None:
    started = Child([sys.executable, "-c", "raise SystemExit(4)"], log=tmp_path / "log")
    started.process.wait()
    assert started.finish(20) == 4


def test_it_is_killed_when_its_time_is_up(tmp_path: Path) -> None:
    started = child(HANGS, tmp_path / "log")
    began = time.monotonic()
    assert started.finish(0.2) is None
    assert time.monotonic() - began < 5
    assert started.process.poll() == -signal.SIGKILL


def test_an_interruption_of_the_starter_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float | None = None) -> int:
        monkeypatch.undo()
        raise KeyboardInterrupt

    started = child(HANGS, tmp_path / "log")
    monkeypatch.setattr(started.process, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        started.finish(60)
    assert started.process.poll() == -signal.SIGKILL


@pytest.mark.parametrize("code", [OBEYS, HANGS], ids=["waits", "works"])
def test_it_ends_with_a_killed_starter(tmp_path: Path, code: str) -> None:
    command = [sys.executable, "-c", STARTER, code, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        await_ready(tmp_path / "log")
        starter.kill()
    assert is_gone(pid, 5)
