"""What is refused before a run starts, beside what the check of the parameters finds."""

from pathlib import Path

import pytest

pytest.importorskip("ruamel.yaml")

from components.foundation.errors import InputError
from pipelines.running import prepare

# Of a library of DVC.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")
GRAPH = """stages:
  fetch_data:
    cmd: "true"
    deps: ["${fetch_data.files}"]
    outs: [data]
  report:
    cmd: "true"
    deps: [data]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "change", lambda *_: None)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    return tmp_path


@pytest.mark.parametrize("files", ["photos", "photos/", "../photos", "a\\nb"])
def test_files_to_watch_must_be_there(project: Path, files: str) -> None:
    (project / "params.yaml").write_text(f'fetch_data: {{files: "{files}"}}\n')
    with pytest.raises(InputError, match=r"^params.yaml: fetch_data.files: .*: no such file or folder$") as caught:
        prepare.prepared(project, None, [], ["report"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("files", ["photos", "params.yaml"])
def test_files_that_are_there_are_watched(project: Path, files: str) -> None:
    (project / "photos").mkdir()
    (project / "params.yaml").write_text(f"fetch_data: {{files: {files}}}\n")
    assert list(prepare.prepared(project, None, [], [])) == ["fetch_data", "report"]
