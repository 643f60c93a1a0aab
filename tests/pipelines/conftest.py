"""What tests of flows share: one Prefect server, since its start takes longer than most of them, and a toy project."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.pipeline_toy import make_toy


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    """A Prefect server with a database of its own."""
    testing = pytest.importorskip("prefect.testing.utilities")
    with testing.prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project before its first run, made once."""
    return make_toy(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def toy(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the toy project, as the working directory."""
    shutil.copytree(pristine, tmp_path / "toy")
    monkeypatch.chdir(tmp_path / "toy")
    return tmp_path / "toy"
