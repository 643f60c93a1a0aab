"""One run at a time in a checkout: two real processes, and what DVC says of its own."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("ruamel.yaml")

from components.foundation.errors import InputError
from components.foundation.params import Params
from components.foundation.process import RECIPE
from components.foundation.provenance import fingerprint
from components.foundation.storage import locked
from components.stages import _require_own_run  # pyright: ignore[reportPrivateUsage]
from pipelines.parameters import change as parameters
from pipelines.running import checkout
from pipelines.running.checkout import DVC_LOCK, DVC_RUNNING, LOCK, sole_run

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pipelines.running.checkout import sole_run
# What is no UTF-8 on a command line comes as such a character.
sys.argv = ["/some/bin/temper", "harden", "--set", "seed=1\\udcff"]
with sole_run(Path.cwd()):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the checkout until it is told a line."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=folder, env=environment, stdin=pipe, stdout=pipe, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(parameters, "check", lambda root: None)
    monkeypatch.setattr(checkout, "PATIENCE_SECONDS", 0.2)
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    return tmp_path


def test_a_second_run_is_refused_before_it_touches_anything(project: Path) -> None:
    process = holder(project)
    try:
        for start in (lambda: parameters.change(project, None, ["seed=7"]), lambda: sole_run(project).__enter__()):
            with pytest.raises(InputError) as error:
                start()
            who = f"PID {process.pid} (temper harden --set 'seed=1\\udcff')"
            assert str(error.value) == f"{who} is at work in this checkout; wait for its end, or stop it"
        assert (project / "params.yaml").read_text() == "seed: 0\n"
    finally:
        process.communicate("end\n")
    parameters.change(project, None, ["seed=7"])
    assert (project / "params.yaml").read_text() == "seed: 7\n" and (project / LOCK).read_text() == ""


def test_a_killed_run_holds_nothing(project: Path) -> None:
    process = holder(project)
    process.kill()
    process.communicate()
    assert (project / LOCK).read_text()
    parameters.change(project, None, ["seed=7"])


def test_a_block_inside_the_same_process_is_part_of_it(project: Path) -> None:
    with sole_run(project):
        parameters.change(project, None, ["seed=3"])
        with sole_run(project), (project / LOCK).open() as file:
            assert not locked(file.fileno())
        with (project / LOCK).open() as file:
            assert not locked(file.fileno())
    with (project / LOCK).open() as file:
        assert locked(file.fileno())


def test_a_run_of_dvc_is_refused_too(project: Path) -> None:
    (project / DVC_LOCK).parent.mkdir(parents=True)
    dead = subprocess.Popen(["true"])
    dead.wait()
    for pid, refused in ((os.getppid(), True), (dead.pid, False), ("x", False)):
        noted = {"models/a": {"write": {"pid": pid, "cmd": "dvc repro"}}, "b": {"read": []}}
        (project / DVC_RUNNING).write_text(json.dumps(noted))
        if refused:
            with pytest.raises(InputError, match=rf"^PID {pid} \(dvc repro\) is at work in this checkout"):
                parameters.change(project, None, ["seed=7"])
            assert (project / "params.yaml").read_text() == "seed: 0\n"
        else:
            parameters.change(project, None, ["seed=0"])
    (project / DVC_RUNNING).write_text("")
    with (project / DVC_LOCK).open("w") as file:
        assert locked(file.fileno())
        with pytest.raises(InputError, match=r"^a command of DVC is at work in this checkout"):
            parameters.change(project, None, ["seed=7"])
    parameters.change(project, None, ["seed=7"])


def test_what_a_preset_replaces_is_kept(project: Path) -> None:
    (project / "presets").mkdir()
    (project / "presets/digits.yaml").write_text("seed: 5\n")
    (project / "params.yaml").write_text("seed: 0  # by hand\n")
    parameters.change(project, "digits")
    assert (project / parameters.KEPT).read_text() == "seed: 0  # by hand\n"


def test_a_stage_refuses_another_recipe_than_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    params = Params({"seed": 0})
    _require_own_run(params)
    monkeypatch.setenv(RECIPE, fingerprint({"seed": 0}))
    _require_own_run(params)
    with pytest.raises(InputError, match=r"^params\.yaml: changed since this run began; start it again"):
        _require_own_run(Params({"seed": 1}))


def test_a_stage_of_no_run_is_refused_beside_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    params = Params({"seed": 0})
    process = holder(project)
    try:
        with pytest.raises(InputError, match=rf"^PID {process.pid} \(temper harden --set .*\) is at work in this"):
            _require_own_run(params)
        monkeypatch.setenv(RECIPE, fingerprint({"seed": 0}))
        _require_own_run(params)
    finally:
        process.communicate("end\n")
    monkeypatch.delenv(RECIPE)
    _require_own_run(params)
    # To ask is to hold the lock for a moment: a run that begins then waits for it.
    (project / LOCK).write_text("")
    with (project / LOCK).open() as file, ThreadPoolExecutor() as pool:
        assert locked(file.fileno())
        begins = pool.submit(parameters.change, project, None, ["seed=7"])
        time.sleep(0.05)
        assert not begins.done()
        file.close()
        begins.result()


def test_a_lock_that_is_a_pipe_is_not_waited_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (project / LOCK).parent.mkdir()
    os.mkfifo(project / LOCK)
    with pytest.raises(InputError, match="want a regular file"):
        _require_own_run(Params({"seed": 0}))
    with pytest.raises(InputError, match="want a regular file"):
        parameters.change(project, None, ["seed=7"])
