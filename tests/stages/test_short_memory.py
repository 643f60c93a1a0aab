"""Where memory is short a stage ends soon, with one line and status 2, and leaves no half of a file."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.foundation.process import USER_ERROR
from components.foundation.storage import write_text
from tests.parts.pipeline_files import environment, make_project
from tests.parts.streamed_files import CLASSES, jpeg

MIB = 2**20
# Of a stage that waits for nothing; a hang takes longer.
SECONDS = 120
# Counted from what the libraries take, which is another number on every machine.
LIMITED = """
import resource, runpy, sys
import {module}
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1])
resource.setrlimit(resource.RLIMIT_DATA, ((held + {more} * 1024) * 1024,) * 2)
sys.argv = ["{module}"]
sys.modules.pop("{module}")
runpy.run_module("{module}", run_name="__main__")
"""


def ended(command: list[str], folder: Path, before: Callable[[], None] | None = None) -> tuple[int, str]:
    """Exit status and stderr of a command in a project."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=SECONDS,
        preexec_fn=before,
        check=False,
    )
    return done.returncode, done.stderr


def with_memory(stage: str, more: int, folder: Path) -> tuple[int, str]:
    """A stage that may take so many MiB more than its libraries."""
    return ended(["-c", LIMITED.format(module=f"components.stages.{stage}", more=more)], folder)


def project_of(folder: Path, image_size: int, streamed: bool) -> Path:
    """48 pictures of three classes."""
    for number in range(48):
        path = folder / "images" / CLASSES[number % len(CLASSES)] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    fields = {"name": "image_folder", "folder": str(folder / "images"), "image_size": image_size, "color": "rgb"}
    spec = fields | {"resize": "crop", "streamed": {"random_crop": None} if streamed else None}
    changes = {"fetch_data.dataset": spec, "normalize_data.validation": "1/3", "normalize_data.test": "1/3"}
    return make_project(folder / "project", **changes)


def left(folder: Path) -> list[str]:
    """The files that a stage has left, but for its records."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if path.parts[0] != ".temper" and path.name != "params.yaml")


def require_one_line(stage: str, status: int, said: str, folder: Path) -> None:
    assert status == USER_ERROR, said
    assert said.startswith(f"{stage}: error: ") and said.count("\n") == 1
    assert "out of memory" in said or "that are free for this process (lower image_size" in said
    assert left(folder) == []


@pytest.mark.parametrize("mib", [100, 200])
def test_what_cannot_even_load_its_libraries_is_one_line(mib, tmp_path):
    project = make_project(tmp_path)
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (mib * MIB,) * 2)  # noqa: E731
    status, said = ended(["-m", "components.stages.fetch_data"], project, limit)
    require_one_line("fetch_data", status, said, project)
    assert "the libraries alone take more" in said


def test_another_error_while_libraries_are_loaded_is_told_as_ever(tmp_path):
    write_text(tmp_path / "torch.py", "raise KeyError('no such thing')")
    told = {**environment(), "PYTHONPATH": os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])}
    command = [sys.executable, "-m", "components.stages.fetch_data"]
    done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr and "no such thing" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["decoded", "streamed"])
def test_fetching_ends_in_one_line_or_well(streamed, tmp_path):
    """72 MiB of pixels; half of what is free is enough for them, and for their file."""
    project = project_of(tmp_path, 724, streamed)
    ends = list[int]()
    for more in (1, 60, 130, 200, 300):
        status, said = with_memory("fetch_data", more, project)
        ends.append(status)
        if status:
            require_one_line("fetch_data", status, said, project)
        else:
            assert left(project) == ["data/raw.safetensors"]
            (project / "data/raw.safetensors").unlink()
    assert ends[0] == USER_ERROR and ends[-1] == 0 and ends == sorted(ends, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["normalize_data", "train_clean_teacher"])
def test_later_stages_end_in_one_line_or_well(stage, tmp_path):
    project = project_of(tmp_path, 256, streamed=False)
    for earlier in ("fetch_data", "normalize_data")[: 1 if stage == "normalize_data" else 2]:
        assert with_memory(earlier, 10_000, project)[0] == 0
    before = left(project)
    for more in (1, 10, 30, 60):
        status, said = with_memory(stage, more, project)
        if status:
            assert (status, said.count("\n")) == (USER_ERROR, 1), said
            assert "out of memory" in said and left(project) == before
