"""A project in which every stage ran, made once for all tests of stages."""

import shutil
from pathlib import Path

import pytest

from components.stages import STAGES
from tests.parts.pipeline_files import make_project, run_here


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which all stages ran once."""
    folder = make_project(tmp_path_factory.mktemp("stages") / "project")
    run_here(folder, *STAGES)
    return folder


@pytest.fixture
def copied(project: Path, tmp_path: Path) -> Path:
    """A copy of the project, to be changed."""
    shutil.copytree(project, tmp_path / "copy")
    return tmp_path / "copy"
