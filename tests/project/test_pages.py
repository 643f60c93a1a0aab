"""CONTRIBUTING and the index of docs/: every place they name exists, and no page is missing."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def answers() -> dict[str, str]:
    """Question to place, of the table in CONTRIBUTING."""
    section = CONTRIBUTING.split("## Where would I ...")[1].split("\n## ")[0]
    return dict(re.findall(r"(?m)^\| (.+?) \| `([^`]+)`.* \|$", section))


def test_ten_questions_have_an_answer():
    assert len(answers()) == 10


@pytest.mark.parametrize("path", answers().values())
def test_the_place_of_each_answer_exists(path):
    place = ROOT / path
    assert place.exists() or (place.stem == "NAME" and (place.parent / "__init__.py").exists()), path


def test_the_index_leads_to_every_page():
    linked = set(re.findall(r"\]\(([^)#:]+\.md)\)", (DOCS / "index.md").read_text()))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert {page for page in pages if not page.startswith("api/")} - {"index.md"} <= linked


def test_hooks_are_programs_of_the_environment():
    """So that a commit needs no network and asks what CI asks."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        program = hook["entry"].split()[0]
        assert hook["language"] == "system" and program.startswith(".venv/bin/")
        assert Path(sys.executable).with_name(Path(program).name).exists(), f"{program} is not installed"
