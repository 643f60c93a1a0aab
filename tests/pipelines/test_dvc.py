"""`dvc repro` on a copy of the repository with few images: what runs, what does not, and the same lock file again."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.stages import STAGES
from tests.parts.pipeline_files import ROOT, changed, environment, files, hashes, make_project, outputs

pytest.importorskip("dvc")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no Git checkout")]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def dvc(folder: Path, *arguments: str, **variables: str) -> str:
    """A dvc command's stdout; its stages run on the code of `folder`, by the Python of this test."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    surroundings = environment() | {"PATH": path, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"} | variables
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"dvc {' '.join(arguments)}: {done.stdout}\n{done.stderr}"
    return done.stdout


def ran(output: str) -> list[str]:
    """The stages that `dvc repro` says it ran."""
    mark = "Running stage '"
    return [line.split("'")[1] for line in output.splitlines() if line.startswith(mark)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it is now, committed or not, without outputs, with small parameters."""
    folder = tmp_path_factory.mktemp("dvc") / "clone"
    git(ROOT, "clone", "--quiet", str(ROOT), str(folder))
    for name in git(ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for path in ("dvc.lock", *outputs()):
        (folder / path).unlink(missing_ok=True)
    return make_project(folder)


def test_the_graph_from_nothing_to_report(clone):
    assert ran(dvc(clone, "repro")) == list(STAGES)
    assert all((clone / path).exists() for path in outputs())
    assert "up to date" in dvc(clone, "status")
    assert ran(dvc(clone, "repro")) == []
    shown = dvc(clone, "metrics", "show", "--md")
    assert "metrics/report.json" in shown and "student.worst_case" in shown
    drawn = clone / "drawn"
    dvc(clone, "plots", "show", "--out", str(drawn))
    assert "curves/student.csv" in (drawn / "index.html").read_text(encoding="utf-8")
    shutil.rmtree(drawn)

    # Forced, every byte is made anew; nothing may differ.
    before = (clone / "dvc.lock").read_bytes(), hashes(clone)
    assert ran(dvc(clone, "repro", "--force", TEMPER_ANEW="1")) == list(STAGES)
    assert ((clone / "dvc.lock").read_bytes(), hashes(clone)) == before

    # What only the report reads runs only the report, although the page shows every parameter.
    path = clone / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(changed(values, {"report.gallery_images": 2}), sort_keys=False), encoding="utf-8")
    assert ran(dvc(clone, "repro")) == ["report"]
    assert hashes(clone, *STAGES[:-1]) == {path: before[1][path] for path in files(clone, *STAGES[:-1])}


def test_a_changed_added_or_removed_image_is_noticed(tmp_path):
    """Of a folder inside the project, outside of it, and behind a link: what dvc.yaml watches for fetch_data."""
    project, outside = tmp_path / "project", tmp_path / "outside"
    for folder in (project / "inside", outside):
        for name in ("ant", "bee"):
            (folder / name).mkdir(parents=True)
            for number in range(2):
                (folder / name / f"{number}.png").write_bytes(bytes([number]))
    (project / "linked").symlink_to(outside)
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["fetch_data"]
    box = {"cmd": "true", "deps": [dep for dep in stage["deps"] if not dep.startswith("components/")]}
    assert box["deps"], "dvc.yaml watches no files"
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"fetch_data": box}}), encoding="utf-8")
    git(project, "init", "--quiet")
    dvc(project, "init", "--quiet")
    (project / "none.txt").touch()
    for folder, key in (("inside", "files"), ("linked", "extra_files"), (str(outside), "files")):
        watched = dict.fromkeys(("files", "extra_files"), "none.txt") | {key: folder}
        (project / "params.yaml").write_text(yaml.safe_dump({"fetch_data": watched}), encoding="utf-8")
        dvc(project, "repro")
        assert "up to date" in dvc(project, "status")
        image = project / folder / "ant/0.png"
        for step in (
            lambda image: image.write_bytes(image.read_bytes() + b"changed"),
            lambda image: image.with_name("2.png").write_bytes(b"added"),
            lambda image: image.with_name("2.png").unlink(),
            lambda image: image.rename(image.parents[1] / "bee/3.png"),
        ):
            step(image)
            assert "modified" in dvc(project, "status") and ran(dvc(project, "repro")) == ["fetch_data"]
            assert "up to date" in dvc(project, "status")
        (image.parents[1] / "bee/3.png").rename(image)


def test_a_variation_as_the_readme_says_leaves_the_workspace_alone(clone):
    (command,) = re.findall(r"`dvc (exp run [^`]+)`", (ROOT / "README.md").read_text())
    watched = [*outputs(), "dvc.lock", "params.yaml", "dvc.yaml"]
    before, status = hashes(clone), git(clone, "status", "--short")
    texts = {name: (clone / name).read_bytes() for name in watched if (clone / name).is_file()}
    # Up to the first stage that reads the seed.
    dvc(clone, *command.split(), "normalize_data")
    assert hashes(clone) == before and git(clone, "status", "--short") == status
    assert {name: (clone / name).read_bytes() for name in texts} == texts
    assert dvc(clone, "exp", "list", "--name-only").strip()
