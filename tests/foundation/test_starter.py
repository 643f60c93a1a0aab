"""A stage ends with the dvc that started it, whatever has killed that; one that a person started goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.foundation import starter
from tests.parts.pipeline_files import environment

STAGE = """
import pathlib, time
from components.foundation import starter
from components.foundation.process import as_process
starter.POLL_SECONDS = 0.05
with as_process("stage"):
    starter.end_with_dvc()
    pathlib.Path("started").write_text("yes")
    try:
        time.sleep(8)
        pathlib.Path("ended").write_text("by itself")
    except SystemExit as end:
        pathlib.Path("ended").write_text(str(end.code))
"""
DVC = "import subprocess, sys; subprocess.run(sys.argv[1:])"


def ended(folder: Path, number: int, command: list[str], told: dict[str, str], seconds: float) -> str:
    """How the stage ended within so many seconds of its starter's end by a signal."""
    (folder / "stage.py").write_text(STAGE)
    process = subprocess.Popen([sys.executable, "-c", DVC, *command], cwd=folder, env=environment() | told)
    until(folder / "started", 30)
    os.kill(process.pid, number)
    process.wait()
    until(folder / "ended", seconds)
    return (folder / "ended").read_text() if (folder / "ended").exists() else ""


def until(path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("shell", [True, False], ids=["a shell between", "no shell"])
def test_it_ends_with_its_starter(number, shell, tmp_path):
    line = f"{sys.executable} stage.py"
    # A shell with more to do stays between.
    command = ["sh", "-c", f"{line}; true"] if shell else line.split()
    assert ended(tmp_path, number, command, {starter.UNDER_DVC: "a"}, 6) == "143"


def test_it_goes_on_where_a_person_started_it(tmp_path):
    told = {name: value for name, value in environment().items() if name != starter.UNDER_DVC}
    assert ended(tmp_path, signal.SIGKILL, [sys.executable, "stage.py"], told, 1) == ""
