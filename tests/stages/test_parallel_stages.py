"""A training stage of several processes is one stage: one journal, one voice, one end, whoever starts and stops it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from components.foundation.storage import read_csv, read_json
from components.numerics.tensor_files import read_tensors
from tests.parts.pipeline_files import (
    await_epoch,
    changed,
    finish,
    hashes,
    make_project,
    partial_files,
    run_here,
    start,
    start_stage,
    unfinished,
)
from tests.parts.processes import on_two_gpus, require_close
from tests.parts.sentinel_fields import ALWAYS, SENTINEL

pytestmark = pytest.mark.slow

STAGE = "train_clean_teacher"
EPOCHS = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with data, whose training stages are two processes."""
    changes = {"parallel.processes": 2, f"{STAGE}.recipe.epochs": EPOCHS}
    folder = make_project(tmp_path_factory.mktemp("stages") / "data", **changes)
    run_here(folder, "fetch_data", "normalize_data")
    return folder


@pytest.fixture(scope="module")
def whole(data: Path) -> tuple[Path, str]:
    """A project whose teacher is trained, and what that printed."""
    folder = data.parent / "whole"
    shutil.copytree(data, folder)
    status, out, err = finish(start_stage(STAGE, folder))
    assert (status, err) == (0, "")
    return folder, out


def copy_of(data: Path, folder: Path, **changes) -> Path:
    shutil.copytree(data, folder)
    values = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    (folder / "params.yaml").write_text(yaml.safe_dump(changed(values, changes), sort_keys=False), encoding="utf-8")
    return folder


def events(folder: Path) -> list[dict]:
    """Those of the stage's one journal."""
    journals = list((folder / ".temper/journals").glob(f"*/*{STAGE}*.jsonl"))
    assert len(journals) == 1
    return [json.loads(line) for line in journals[0].read_text(encoding="utf-8").splitlines()]


def processes_of(parent: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout
    return [int(number) for number in found.split()]


def is_there(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def await_epochs(folder: Path, process: subprocess.Popen[str]) -> list[int]:
    """The stage's processes, once the first epochs are over."""
    await_epoch(process, folder, 0)
    return processes_of(process.pid)


def test_one_journal_and_one_voice(whole):
    folder, out = whole
    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    assert [int(line.split("/")[0].split()[1]) for line in lines] == list(range(EPOCHS + 1))
    told = events(folder)
    assert [event["event"] for event in told].count("open") == 1 and told[-1]["status"] == "FINISHED"
    assert not partial_files(folder) and not unfinished(folder)


def test_finished_work_is_published_or_computed_again_by_all(whole, tmp_path, monkeypatch):
    """One process decides for all of them."""
    folder = tmp_path / "again"
    shutil.copytree(whole[0], folder)
    status, out, err = finish(start_stage(STAGE, folder))
    assert (status, err) == (0, "") and "published again" in out
    monkeypatch.setenv("TEMPER_ANEW", "1")
    status, out, err = finish(start_stage(STAGE, folder))
    assert (status, err) == (0, "") and "published again" not in out and f"/{EPOCHS} " in out
    assert hashes(folder) == hashes(whole[0])


def test_torchrun_does_the_same(whole, data, tmp_path):
    """Whatever params.yaml says about the number of processes."""
    folder = copy_of(data, tmp_path / "torchrun", **{"parallel.processes": 1})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    status, out, err = finish(start([*launcher, "-m", f"components.stages.{STAGE}"], folder))
    assert status == 0, err
    assert hashes(folder) == hashes(whole[0])
    assert out.count(f"/{EPOCHS}  loss") == EPOCHS and len(events(folder)) == len(events(whole[0]))


@pytest.mark.parametrize("device", ["cpu", on_two_gpus("cuda")])
def test_two_processes_end_as_one_does(device, tmp_path):
    """The whole stage: what `compute` sets up, the group, the files. On GPUs each process has its own, over NCCL."""
    rows, states = [], []
    for processes in (1, 2):
        changes = {"parallel.processes": processes, "compute.device": device, f"{STAGE}.recipe.precision": "float32"}
        folder = make_project(tmp_path / str(processes), **changes)
        run_here(folder, "fetch_data", "normalize_data")
        status, _, err = finish(start_stage(STAGE, folder))
        assert (status, err) == (0, "")
        rows.append(read_csv(folder / "curves/clean_teacher.csv"))
        states.append(read_tensors(folder / "models/clean_teacher.last.safetensors")[0])
    for alone, both in zip(*rows, strict=True):
        assert {k: float(v) for k, v in both.items() if v} == pytest.approx(
            {k: float(v) for k, v in alone.items() if v}, rel=1e-3, abs=1e-3
        )
    require_close(states[0], states[1], 0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopped_it_leaves_no_process_and_goes_on(number, whole, data, tmp_path):
    folder = copy_of(data, tmp_path / "stopped")
    process = start_stage(STAGE, folder)
    started = await_epochs(folder, process)
    assert len(started) == 2
    process.send_signal(number)
    status, _, err = finish(process, 30)
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    deadline = time.monotonic() + 10
    while any(is_there(one) for one in started):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert err == "" and not hashes(folder, STAGE)
    if number != signal.SIGKILL:
        assert events(folder)[-1]["status"] == "KILLED"
    status, out, err = finish(start_stage(STAGE, folder))
    assert (status, err) == (0, "") and "(untrained)" not in out
    assert hashes(folder) == hashes(whole[0])


def test_the_sentinel_is_heard_by_all(data, tmp_path):
    """A roll back changes the method on each process, and is told once."""
    key = "train_robust_teacher"
    changes = {"action": "roll_back", "changes": [{"method.attack.steps": 3}]} | ALWAYS
    seen = []
    for processes in (1, 2):
        sentinel = {"parallel.processes": processes, f"{key}.sentinel": SENTINEL | changes}
        folder = copy_of(data, tmp_path / str(processes), **sentinel)
        status, out, err = finish(start_stage(key, folder))
        assert (status, err) == (0, "")
        lines = [line for line in out.splitlines() if line.startswith("sentinel: epoch")]
        assert len(lines) == 2 and "rolled back to epoch 0, method.attack.steps 3" in lines[0] and "stopped" in lines[1]
        events = read_json(folder / "curves/robust_teacher.sentinel.json")["events"]
        seen.append([(event["action"], event["epoch"]) for event in events])
    assert seen[0] == seen[1]


def test_one_that_is_lost_ends_all(data, tmp_path):
    folder = copy_of(data, tmp_path / "lost")
    process = start_stage(STAGE, folder)
    first, second = sorted(await_epochs(folder, process))
    subprocess.run(["kill", "-KILL", str(second)], check=True)
    assert finish(process, 60)[0] == 128 + signal.SIGKILL
    assert not is_there(first)


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"parallel.processes": 0}, "params.yaml: parallel.processes: got 0, want at least 1"),
        (
            {f"{STAGE}.recipe.batch_size": 2},
            "params.yaml: train_clean_teacher.recipe.batch_size: got 2 for 2 processes, want at least 4",
        ),
        ({f"{STAGE}.recipe.gradient_clip": 0}, f"params.yaml: {STAGE}.recipe.gradient_clip: got 0, want more than 0"),
    ],
    ids=["processes", "batch_size", "recipe"],
)
def test_a_mistake_is_one_line(changes, line, data, tmp_path):
    folder = copy_of(data, tmp_path / "mistaken", **changes)
    status, _, err = finish(start_stage(STAGE, folder))
    assert status == 2 and err.startswith(f"{STAGE}: error: {line}") and err.count("\n") == 1
