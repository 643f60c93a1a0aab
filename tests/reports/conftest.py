"""The made-up evaluation, as a document and as files."""

from pathlib import Path

import pytest

from components.reports.robustness.contents import Report
from tests.parts.evaluation_files import document, write_evaluation


@pytest.fixture(scope="session")
def made_up() -> Report:
    """The document of the made-up evaluation."""
    return document()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the made-up evaluation."""
    write_evaluation(tmp_path)
    return tmp_path
