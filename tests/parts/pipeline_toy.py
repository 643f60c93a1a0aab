"""A toy project for the tests of pipelines/: a diamond of four stages that can fail, refuse and hang."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.running.tasks import environment

PYTHON = sys.executable
COMPONENTS, PIPELINES = (Path(__file__).resolve().parents[2] / name for name in ("components", "pipelines"))

DVC_YAML = """\
stages:
  join:
    cmd: python work.py join left right
    deps: [work.py, left.txt, right.txt]
    params: [join]
    outs: [join.txt]
  left:
    cmd: python work.py left fetch
    deps: [work.py, fetch.txt]
    params: [left, compute]
    outs: [left.txt]
  right:
    cmd: python work.py right fetch
    deps: [work.py, fetch.txt]
    params: [right]
    outs: [right.txt]
  fetch:
    cmd: python work.py fetch
    deps: [work.py]
    params: [fetch]
    outs: [fetch.txt]
"""
PARAMS = """\
# every number of the toy
compute:
  device: cpu   # or cuda
fetch: {value: 1, does: works}
left:
  value: 8/255     # a fraction
  does: works
  limit: null
  steps:
    - {name: first, size: 1e-3}   # a list, indented
right: {value: 3, does: works, limit: null}
join: {value: 4, does: works}
"""
WORK = """\
import os, pathlib, signal, sys, time
import yaml

name, *upstream = sys.argv[1:]
section = yaml.safe_load(open("params.yaml"))[name]
state = pathlib.Path(".temper"); state.mkdir(exist_ok=True)
with open(state / "journal", "a") as journal:
    print("start", name, file=journal)
does = section["does"]
if does == "fails once" and not (state / name).exists():
    (state / name).touch()
    raise RuntimeError("no luck")
if does == "refuses":
    print("error: params.yaml: " + name + ".value: got 3, want 4", file=sys.stderr)
    sys.exit(2)
if does == "hangs":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    (state / "pid").write_text(str(os.getpid()))
    time.sleep(60)
if does == "collapses":
    print("sentinel: epoch 7.25: catastrophic overfitting (FGSM 81.0 %, PGD 12.5 %, n = 200): stopped", flush=True)
    print("sentinel: looks take 4.0 % of the passes of training", flush=True)
text = str(section["value"]) + "".join(pathlib.Path(one + ".txt").read_text() for one in upstream)
pathlib.Path(name + ".txt").write_text(text)
with open(state / "journal", "a") as journal:
    print("end", name, file=journal)
"""
CHECK = """\
from components.foundation.errors import InputError

def check(params):
    if params.get("compute", "device") == "toaster":
        raise InputError("params.yaml: compute.device: got 'toaster', want cpu or cuda")
"""


FILES = {
    "dvc.yaml": DVC_YAML,
    "params.yaml": PARAMS,
    "presets/digits.yaml": PARAMS,
    "presets/toy.yaml": "# Another recipe.\n\njoin.value: 8\n",
    "work.py": WORK,
    # The toy's own check of parameters, and none by our schema; all else is ours.
    "components/__init__.py": f"__path__.append({str(COMPONENTS)!r})\n",
    "components/commands/__init__.py": f"__path__.append({str(COMPONENTS / 'commands')!r})\n",
    "components/commands/check_params.py": CHECK,
    "pipelines/__init__.py": f"__path__.append({str(PIPELINES)!r})\n",
    "pipelines/parameters/__init__.py": f"__path__.append({str(PIPELINES / 'parameters')!r})\n",
    "pipelines/parameters/early.py": "def refuse(params):\n    pass\n",
}


def make_toy(root: Path) -> Path:
    """The toy project in `root`, a Git and DVC repository that has not run yet."""
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    command(root, "git", "init", "--quiet")
    dvc(root, "init", "--quiet")
    dvc(root, "config", "core.analytics", "false")
    return root


def command(root: Path, *arguments: str) -> str:
    return subprocess.run(arguments, cwd=root, env=environment(), check=True, capture_output=True, text=True).stdout


def dvc(root: Path, *arguments: str) -> str:
    return command(root, PYTHON, "-m", "dvc", *arguments)


def journal(root: Path) -> list[str]:
    path = root / ".temper" / "journal"
    return path.read_text().splitlines() if path.exists() else []


def started(root: Path) -> list[str]:
    return [line.removeprefix("start ") for line in journal(root) if line.startswith("start")]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(true: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()
