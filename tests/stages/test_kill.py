"""Stages that are stopped and run again end as if nothing had happened; a stop leaves no half-written output."""

import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.parts.pipeline_files import (
    TRAINING,
    await_epoch,
    finish,
    hashes,
    last_epoch,
    make_project,
    partial_files,
    run_here,
    start,
    start_stage,
    unfinished,
)

pytestmark = pytest.mark.slow

EPOCHS = 24
EPOCHS_OF_EACH = {f"{stage}.recipe.epochs": EPOCHS for stage in TRAINING}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose models were trained without interruption."""
    folder = make_project(tmp_path_factory.mktemp("kill") / "whole", **EPOCHS_OF_EACH)
    run_here(folder, "fetch_data", "normalize_data", *TRAINING)
    return folder


@pytest.fixture
def fresh(whole: Path, tmp_path: Path) -> Path:
    """A copy of that project without resume state; a test takes away what its stage is to write."""
    shutil.copytree(whole, tmp_path / "fresh", ignore=shutil.ignore_patterns(".temper"))
    return tmp_path / "fresh"


def forget(folder: Path, stage: str) -> None:
    for path in hashes(folder, stage):
        (folder / path).unlink()


@pytest.mark.parametrize("stage", TRAINING)
def test_killed_and_run_again_equals_uninterrupted(stage, fresh, whole):
    forget(fresh, stage)
    draws = random.Random(stage)
    process = start_stage(stage, fresh)
    await_epoch(process, fresh, draws.randrange(1, EPOCHS // 2))
    time.sleep(draws.uniform(0, 0.1))
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    stopped_after = last_epoch(fresh)
    assert 1 <= stopped_after < EPOCHS and not hashes(fresh, stage)
    status, out, err = finish(start_stage(stage, fresh))
    assert (status, err) == (0, "")
    assert f"epoch  {stopped_after:2d}/" not in out and f"epoch  {stopped_after + 1:2d}/{EPOCHS}" in out
    assert hashes(fresh) == hashes(whole)
    assert not unfinished(fresh)


def test_terminated_says_so_and_leaves_nothing_behind(fresh, whole):
    stage = "train_robust_teacher"
    forget(fresh, stage)
    process = start_stage(stage, fresh)
    await_epoch(process, fresh, 2)
    process.terminate()
    status, _, err = finish(process)
    assert status == 128 + signal.SIGTERM and "Traceback" not in err
    (journal,) = (fresh / ".temper/journals").glob(f"*/*{stage}*.jsonl")
    assert '"KILLED"' in journal.read_text().splitlines()[-1]
    assert not hashes(fresh, stage) and not partial_files(fresh)
    run_here(fresh, stage)
    assert hashes(fresh) == hashes(whole)


# Runs a stage as `python -m` does, but stops dead before it puts the named file in place.
STOPS_IN_PUBLISH = """
import os, runpy, signal, sys
stage, at = sys.argv[1], sys.argv[2]
replace = os.replace

def replacing(source, target):
    if at in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replacing
sys.argv = [stage]
runpy.run_module(f"components.stages.{stage}", run_name="__main__", alter_sys=True)
"""


def test_killed_while_publishing_shows_whole_files_only(fresh, whole):
    stage = "train_clean_teacher"
    forget(fresh, stage)
    want = hashes(whole, stage)
    seen = []
    for at in ("models/clean_teacher.safetensors", "finished.json"):
        process = start([sys.executable, "-c", STOPS_IN_PUBLISH, stage, at], fresh)
        assert finish(process)[0] == -signal.SIGKILL
        found = hashes(fresh, stage)
        assert found.items() <= want.items()
        seen.append(len(found))
    assert seen == [len(want) - 1, len(want)]
    assert finish(start_stage(stage, fresh))[0] == 0
    assert hashes(fresh, stage) == want
