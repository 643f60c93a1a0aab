"""Kept work: a stage goes on, or is published again, under the same inputs; else it says which input differs."""

import shutil
from pathlib import Path

import pytest

from components.foundation.process import WORK
from components.foundation.storage import write_text
from components.stages.resume import KeptWork
from tests.parts.pipeline_files import (
    ROOT,
    await_epoch,
    finish,
    hashes,
    last_epoch,
    make_project,
    run_here,
    start_stage,
)

STAGE, EPOCHS = "train_clean_teacher", 12
INPUTS = {"components/a.py": "1", "recipe.epochs": "3"}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_text("models/a.txt", "weights")
    write_text("curves/a.csv", "epoch")
    return tmp_path


def kept(stage: str = "train", **changes: str) -> KeptWork:
    return KeptWork(stage, INPUTS | changes)


def finished(**changes: str) -> KeptWork:
    work = kept(**changes)
    work.begin(print)
    work.finish(["curves/a.csv", "models/a.txt"])
    return work


def test_finished_work_is_published_again(workspace):
    finished()
    for path in ("models/a.txt", "curves/a.csv"):
        Path(path).unlink()
    assert kept().published_again()
    assert Path("models/a.txt").read_text() == "weights" and Path("curves/a.csv").read_text() == "epoch"


def test_of_other_inputs_or_another_stage_nothing_is(workspace):
    finished()
    assert not kept(**{"recipe.epochs": "4"}).published_again()
    assert not kept("distill").published_again()


def test_finished_work_is_computed_again_where_that_is_asked_for(workspace, monkeypatch):
    """Once: a retry goes on with what it has."""
    finished()
    monkeypatch.setenv("TEMPER_ANEW", "1")
    work = kept()
    assert not work.published_again() and work.given_up and not work.folder.exists()
    work.begin(print)
    write_text(work.folder / "checkpoint.safetensors", "state")
    again = kept()
    assert not again.published_again() and not again.given_up and (again.folder / "checkpoint.safetensors").exists()


def test_what_is_published_is_a_copy(workspace):
    """An edit in place of what came out a second time does not reach what is kept."""
    finished()
    Path("models/a.txt").unlink()
    assert kept().published_again()
    with Path("models/a.txt").open("a") as file:
        file.write("!")
    assert kept().published_again() and Path("models/a.txt").read_text() == "weights"


def test_kept_files_that_somebody_changed_are_given_up(workspace):
    """The first time, file and kept file are one: an edit in place reaches both."""
    finished()
    with Path("models/a.txt").open("a") as file:
        file.write("!")
    assert not kept().published_again() and not kept().folder.exists()


def test_one_finished_run_is_kept_and_unfinished_ones_stay(workspace):
    old, stopped = finished(), kept(**{"recipe.epochs": "9"})
    stopped.begin(print)
    write_text(stopped.folder / "checkpoint.safetensors", "state")
    new = finished(**{"recipe.epochs": "4"})
    assert not old.folder.exists() and stopped.folder.exists() and new.published_again()


def test_what_was_unfinished_goes_when_it_is_finished(workspace):
    work = kept()
    work.begin(print)
    write_text(work.folder / "checkpoint.safetensors", "state")
    work.finish(["models/a.txt"])
    assert not (work.folder / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_other_inputs_is_told(workspace):
    before, lines = kept(), []
    before.begin(lines.append)
    write_text(before.folder / "checkpoint.safetensors", "state")
    kept(**{"components/a.py": "2", "recipe.epochs": "5"}).begin(lines.append)
    assert lines == [
        "train: starts anew, a checkpoint is there for other inputs: components/a.py, recipe.epochs: 3 -> 5"
    ]
    kept().begin(lines.append)
    assert len(lines) == 1, "its own checkpoint is continued without a word about others"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a clean teacher that was trained without interruption."""
    folder = make_project(tmp_path_factory.mktemp("resume") / "whole", **{f"{STAGE}.recipe.epochs": EPOCHS})
    run_here(folder, "fetch_data", "normalize_data", STAGE)
    return folder


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the code, for a test to change."""
    shutil.copytree(ROOT / "components", tmp_path / "code/components")
    return tmp_path / "code"


def edit(code: Path, name: str, old: str, new: str) -> None:
    path = code / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def without_models(whole: Path, folder: Path) -> Path:
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns(WORK.name, "clean_teacher*"))
    return folder


def killed(folder: Path, code: Path) -> int:
    """Kills the stage after some epochs; the epoch it came to."""
    process = start_stage(STAGE, folder, code)
    await_epoch(process, folder, 3)
    process.kill()
    finish(process)
    return last_epoch(folder)


def test_finished_work_of_other_inputs_is_told(workspace, monkeypatch):
    lines: list[str] = []
    finished()
    kept(**{"components/a.py": "2"}).begin(lines.append)
    assert lines == ["train: starts anew, it was finished for other inputs: components/a.py"]
    # Asked for anew, it says nothing: nothing differs.
    monkeypatch.setenv("TEMPER_ANEW", "1")
    again = kept()
    assert not again.published_again()
    again.begin(lines.append)
    assert len(lines) == 1


@pytest.mark.slow
def test_a_docstring_edited_during_a_killed_run_costs_nothing(whole, code, tmp_path):
    folder = without_models(whole, tmp_path / "fresh")
    epoch = killed(folder, code)
    edit(code, "components/training/loop.py", '"""', '"""Edited. ')
    edit(code, "components/tracking/journal.py", '"""', '"""Edited. ')
    edit(code, "components/numerics/losses.py", "\nimport torch\n", "\n# Edited.\nimport torch\n")
    status, out, err = finish(start_stage(STAGE, folder, code))
    assert (status, err) == (0, "") and f"{STAGE}: continues from epoch {epoch}" in out
    assert f"epoch  {epoch:2d}/" not in out and f"epoch  {epoch + 1:2d}/{EPOCHS}" in out
    assert hashes(folder) == hashes(whole)


@pytest.mark.slow
def test_a_changed_constant_starts_anew_and_is_named(whole, code, tmp_path):
    folder = without_models(whole, tmp_path / "fresh")
    killed(folder, code)
    edit(code, "components/numerics/losses.py", "TINY = 1e-12", "TINY = 1e-11")
    status, out, _ = finish(start_stage(STAGE, folder, code))
    assert status == 0 and "starts anew, a checkpoint is there for other inputs: components/numerics/losses.py\n" in out
    assert "continues" not in out and f"epoch   0/{EPOCHS}" in out


@pytest.mark.slow
def test_a_finished_stage_whose_comment_changed_runs_no_epoch(whole, code, tmp_path):
    folder = tmp_path / "fresh"
    shutil.copytree(whole, folder)
    for path in hashes(folder, STAGE):
        (folder / path).unlink()
    edit(code, "components/training/loop.py", '"""', '"""Edited. ')
    status, out, err = finish(start_stage(STAGE, folder, code))
    assert (status, err) == (0, "") and "published again" in out and f"/{EPOCHS} " not in out
    assert hashes(folder) == hashes(whole)
