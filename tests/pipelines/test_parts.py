"""What the flow is made of: the DVC graph, changes of params.yaml, one stage's process, how its end is read."""

import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prefect")
pytest.importorskip("dvc")

from components.foundation.errors import InputError
from pipelines import graph
from pipelines.parameters import change as parameters
from pipelines.running import process, stage
from pipelines.running.process import ProcessEnd
from pipelines.running.tasks import environment
from temper.cli import main as temper
from tests.parts.pipeline_toy import PARAMS, PYTHON, dvc, is_alive, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")
ROOT = Path(__file__).resolve().parents[2]


# The graph


def test_graph_is_in_order_and_staleness_flows_down(toy: Path) -> None:
    dvc(toy, "repro", "--quiet")
    stages = graph.read_graph(toy)
    assert list(stages) == ["fetch", "left", "right", "join"]
    assert {name: one.dependencies for name, one in stages.items()} == {
        "fetch": (),
        "left": ("fetch",),
        "right": ("fetch",),
        "join": ("left", "right"),
    }
    assert [name for name, one in stages.items() if one.uses_device] == ["left"]
    assert not any(one.stale for one in stages.values())
    parameters.change(toy, None, ["right.value=7"])
    assert [name for name, one in graph.read_graph(toy).items() if one.stale] == ["right", "join"]


def test_graph_of_a_folder_without_dvc_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^dvc\.yaml: .*not inside of a DVC repository"):
        graph.read_graph(tmp_path)


def test_without_git_each_remedy_that_is_named_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: 'true', outs: [a.txt]}}")
    with pytest.raises(InputError) as error:
        graph.read_graph(tmp_path)
    named = re.search(r"not a Git repository, .*\((git init), or without Git: (dvc config .*)\)$", str(error.value))
    assert named
    dvc(tmp_path, *named[2].split()[1:])
    assert list(graph.read_graph(tmp_path)) == ["a"]
    (tmp_path / ".dvc/config").write_text("")
    subprocess.run([*named[1].split(), "-q"], cwd=tmp_path, check=True)
    assert list(graph.read_graph(tmp_path)) == ["a"]


def test_lock_is_put_in_order_and_nothing_is_lost(toy: Path) -> None:
    def entry(name: str) -> str:
        return f"  {name}:\n    cmd: |-\n      one\n      two\n    outs:\n    - path: {name}.txt\n"

    lock, head = toy / "dvc.lock", "schema: '2.0'\nstages:\n"
    lock.write_text(head + entry("b") + entry("old") + entry("a"))
    graph.order_lock(toy, ["old", "a", "b", "old", "a", "absent"])
    assert lock.read_text() == head + entry("old") + entry("a") + entry("b")
    with_section = head + entry("b") + "datasets:\n" + entry("a")
    lock.write_text(with_section)
    graph.order_lock(toy, ["a", "b"])
    assert lock.read_text() == with_section


# Parameters


def edited(*assignments: str) -> str:
    return parameters.edited(PARAMS, parameters.delta_of(assignments), "--set")


@pytest.mark.parametrize(
    ("assignment", "before", "after"),
    [
        ("left.value=4/255", "8/255     # a fraction", "4/255     # a fraction"),
        ("left.steps.0.size=1e-4", "size: 1e-3}   # a list", "size: 1e-4}   # a list"),
        ("fetch.value=[1, 2]", "{value: 1, does", "{value: [1, 2], does"),
        ("compute.device=cuda", "device: cpu   # or", "device: cuda  # or"),
        ("fetch.does=yes", "1, does: works", "1, does: yes"),
    ],
)
def test_edit_changes_one_place_and_keeps_the_rest(assignment: str, before: str, after: str) -> None:
    assert before in PARAMS
    assert edited(assignment) == PARAMS.replace(before, after)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("left.valu=1", "--set: no key 'valu' in left (allowed: value, does, limit, steps)"),
        ("lift.value=1", "--set: no key 'lift' (allowed: compute, fetch, left, right, join)"),
        ("left.steps.1.size=1", "--set: no key '1' in left.steps (allowed: 0)"),
        ("compute", "--set compute: want key=value, such as seed=1"),
    ],
)
def test_edit_refuses_in_one_line(assignment: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        edited(assignment)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "value", ["[1", "9" * 5000, "[" * 2000, "&x [*x]", "!!python/name:os.system", "\x00", "{a: 1, a: 2}"]
)
def test_a_value_that_no_file_may_hold_is_refused_in_one_line(value: str) -> None:
    with pytest.raises(InputError, match=r"^--set 'left.value=.*: not readable as YAML: ") as error:
        edited(f"left.value={value}")
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


def test_several_keys_are_one_delta() -> None:
    """So the name of a member and its fields may come in any order."""
    both = ["left.steps.0.size=2", "right={value: 5, does: fails}", "right.limit=1"]
    text = PARAMS.replace("size: 1e-3}   #", "size: 2}      #").replace(
        "{value: 3, does: works, limit: null}", "{value: 5, does: fails, limit: 1}"
    )
    assert edited(*both) == edited(*both[::-1]) == text


def test_a_new_block_is_laid_out_like_the_file() -> None:
    short, long = "{a: 1, b: [2, 3]}", "{" + ", ".join(f"key_{n}: {{name: {'x' * 9}}}" for n in range(5)) + "}"
    assert edited(f"left.limit={short}") == PARAMS.replace("limit: null\n  steps", f"limit: {short}\n  steps")
    lines = "".join(f"\n    key_{n}: {{name: {'x' * 9}}}" for n in range(5))
    assert edited(f"left.limit={long}") == PARAMS.replace("limit: null\n  steps", f"limit:{lines}\n  steps")


def test_preset_replaces_the_file_and_assignments_come_on_top(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert temper(["params", "change", "--preset", "toy", "--set", "right.value=5"]) == 0
    changed = PARAMS.replace("value: 3", "value: 5").replace("value: 4", "value: 8")
    head, rest = changed.split("\n", 1)
    assert head == "# every number of the toy" and (toy / "params.yaml").read_text() == f"# Another recipe.\n\n{rest}"
    assert temper(["params", "change", "--preset", "digits"]) == 0 and (toy / "params.yaml").read_text() == PARAMS
    assert temper(["params", "change", "--preset", "../params"]) == 2
    assert capsys.readouterr().err == "error: --preset: unknown '../params' (allowed: digits, toy)\n"
    assert not list(toy.glob(".params*"))


# One stage's process


def process_run(code: str, log: Callable[[str], None] = lambda _: None, limit: float = 60, **given: Any) -> ProcessEnd:
    stop = given.get("stop", threading.Event())
    arguments = {"root": Path.cwd(), "environment": environment(), "log": log, "stop": stop, "time_limit": limit}
    return process.run([PYTHON, "-c", code], **arguments)


def test_process_lines_are_clean_and_live() -> None:
    seen: list[tuple[float, str]] = []
    code = (
        "import sys, time\n"
        "print('\\x1b[31mred\\x1b[0m'); print('one\\r\\ntwo'); time.sleep(0.7)\n"
        "for i in range(3): sys.stderr.write(f'\\r{i}/2 \\u2588'); sys.stderr.flush()\n"
        "sys.stderr.write('\\n'); sys.exit(3)"
    )
    outcome = process_run(code, lambda line: seen.append((time.monotonic(), line)))
    assert [line for _, line in seen] == ["red", "one", "two", "2/2 █"] == list(outcome.lines)
    assert seen[3][0] - seen[2][0] > 0.5
    assert (outcome.returncode, outcome.ended_by) == (3, "itself")


def test_process_lines_hold_no_secret_and_move_no_cursor() -> None:
    """Whatever a program of others says, such as DVC of its remotes."""
    rng, texts, seen = random.Random(5), list[str](), list[str]()
    for scheme in ("https", "ssh", "s3", "webdavs"):
        for word in ("SECRETPW", "a@SECRETPW", "SECRETPW/x", "#SECRETPW"):
            texts.append(f"  error: {scheme}://me:{word}@host.example/a: no answer")
    texts += [
        "".join(chr(rng.choice([*range(0x20, 0x100), 0x202E, 0x2066, 0x2028])) for _ in range(30)) for _ in range(50)
    ]
    code = f"import sys\nsys.stdout.reconfigure(encoding='utf-8')\nfor text in {texts!r}: print('x' + text)"
    outcome = process_run(code, seen.append)
    assert outcome.returncode == 0 and len(seen) >= len(texts) and "x  error: https://host.example/a: no answer" in seen
    for line in (*seen, *outcome.lines):
        assert "SECRETPW" not in line and all(letter.isprintable() or letter in "\xa0\u202f" for letter in line), line


HANG = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
deaf = "import time, signal; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; print(1, flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
"""


@pytest.mark.parametrize("ended_by", ["time limit", "stop", "itself"])
def test_process_leaves_no_child(ended_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SEQUENCE", ((signal.SIGINT, 0.2), (signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0)))
    stop, pids = threading.Event(), []

    def log(line: str) -> None:
        pids.append(int(line))
        if ended_by == "stop":
            stop.set()

    end = "" if ended_by == "itself" else "time.sleep(60)"
    outcome = process_run(HANG + end, log, limit=3 if ended_by == "time limit" else 60, stop=stop)
    assert outcome.ended_by == ended_by
    assert wait_until(lambda: not is_alive(pids[0]), 5)


def test_process_group_ends_when_the_flow_is_killed(tmp_path: Path) -> None:
    path = str(tmp_path / "pid")
    sleeper = f"import os, time; print(os.getpid(), file=open({path!r}, 'w'), flush=True); time.sleep(60)"
    code = (
        "import sys, threading; from pathlib import Path; from pipelines.running import process; import os\n"
        f"process.run([sys.executable, '-c', {sleeper!r}], root=Path('.'), environment=os.environ, log=print,"
        " stop=threading.Event(), time_limit=60)"
    )
    flow_process = subprocess.Popen([PYTHON, "-c", code], cwd=ROOT)
    pid = tmp_path / "pid"
    assert wait_until(lambda: pid.exists() and pid.read_text() != "")
    flow_process.kill()
    flow_process.wait()
    assert wait_until(lambda: not is_alive(int(pid.read_text())), 5)


@pytest.mark.parametrize(
    ("outcome", "name", "message"),
    [
        (ProcessEnd(returncode=0, lines=("ok",), ended_by="itself"), "Completed", "ran"),
        (
            ProcessEnd(returncode=0, lines=("Stage 'a' didn't change, skipping",), ended_by="itself"),
            "Cached",
            "unchanged",
        ),
        (ProcessEnd(returncode=-15, lines=(), ended_by="stop"), "Cancelled", "a: stopped"),
        (
            ProcessEnd(returncode=9, lines=(), ended_by="time limit"),
            "TimedOut",
            "a: stopped after its time limit of 60 s",
        ),
        (ProcessEnd(returncode=-9, lines=(), ended_by="itself"), "Failed", "a: killed (signal 9; out of memory?)"),
        (
            ProcessEnd(returncode=255, lines=("ERROR: failed to reproduce 'a': missing data 'x'",), ended_by="itself"),
            "Failed",
            "a: failed to reproduce 'a': missing data 'x' (exit code 255)",
        ),
        (
            ProcessEnd(
                returncode=255,
                lines=("> run me", "a: error: params.yaml: seed", "ERROR: failed to run: run me, exited with 2"),
                ended_by="itself",
            ),
            "Refused",
            "a: params.yaml: seed",
        ),
        (
            ProcessEnd(
                returncode=255, lines=("> run me", "ERROR: failed to run: run me, exited with -9"), ended_by="itself"
            ),
            "Failed",
            "a: killed (signal 9; out of memory?)",
        ),
    ],
    ids=lambda value: value.ended_by if isinstance(value, ProcessEnd) else None,
)
def test_end_of_a_process_names_the_state(outcome: ProcessEnd, name: str, message: str) -> None:
    state = stage.end_state("a", outcome, 60)
    assert (state.name, state.message) == (name, message)


def test_a_stage_whose_files_dvc_has_for_a_moment_is_tried_again(monkeypatch):
    monkeypatch.setattr(stage, "BUSY_POLL_SECONDS", 0.01)
    said = "ERROR: 'data/raw.safetensors' is busy, it is being blocked by: (PID 7): dvc repro"
    busy = ProcessEnd(returncode=255, lines=(said, "If there are no processes …"), ended_by="itself")
    free = ProcessEnd(returncode=0, lines=("done",), ended_by="itself")
    ends = [busy, busy, free]
    assert stage._past_dvc(lambda: ends.pop(0), threading.Event()) is free and not ends
    monkeypatch.setattr(stage, "BUSY_SECONDS", 0.0)
    assert stage._past_dvc(lambda: busy, threading.Event()) is busy
    stopped = threading.Event()
    stopped.set()
    assert stage._past_dvc(lambda: busy, stopped) is busy
