"""The inputs of a piece of work: the code it executes without comments, members in use, parameters by their keys."""

import subprocess
import sys
from pathlib import Path

import pytest

from components.attacks.eot import Eot
from components.attacks.fgsm import Fgsm
from components.foundation.provenance import PROJECT, code_of, differences, fingerprint, inputs_of, members_of

SOURCE = '''"""What it does."""

from components.b import LIMIT


class Counter:
    """A counter."""

    start: int = 0
    """Where it begins."""

    def count(self) -> int:
        """The next number."""
        return self.start + LIMIT  # one more
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project of two files, of which the first imports the second, and a table that names both."""
    folder = tmp_path / "components"
    (folder / "tracking").mkdir(parents=True)
    (folder / "__init__.py").write_text("from components.a import Counter\n")
    (folder / "a.py").write_text(SOURCE)
    (folder / "b.py").write_text("from components.tracking import journal\n\nLIMIT = 3\n")
    (folder / "tracking/journal.py").write_text("NOTED = True\n")
    return tmp_path


def changed(root: Path, name: str, old: str, new: str) -> bool:
    """Whether the code of a.py is other code after a change of a file."""
    before = code_of(["components/a.py"], root)
    path = root / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return code_of(["components/a.py"], root) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What it does.", "What it is for."),
        ("A counter.", "Counts."),
        ("Where it begins.", "The first."),
        ("The next number.", "One more."),
        ("  # one more", ""),
        ("\n\n\nclass", "\n\n# Why.\nclass"),
    ],
)
def test_words_are_no_change(root, old, new):
    assert not changed(root, "components/a.py", old, new)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("components/a.py", "+ LIMIT", "- LIMIT"),
        ("components/a.py", "start: int = 0", "start: int = 1"),
        ("components/b.py", "LIMIT = 3", "LIMIT = 4"),
    ],
)
def test_what_is_executed_is_a_change(root, name, old, new):
    assert changed(root, name, old, new)


@pytest.mark.parametrize("name", ["components/__init__.py", "components/tracking/journal.py"])
def test_tables_and_records_are_none(root, name):
    assert not changed(root, name, "\n", "\nMORE = 1\n")


def test_a_docstring_taken_away_is_no_change(root):
    assert not changed(root, "components/a.py", '        """The next number."""\n', "")


def test_folders_and_absent_files_are_told(root):
    names = ("__init__.py", "a.py", "b.py", "tracking/journal.py")
    assert set(code_of(["components"], root)) == {f"components/{name}" for name in names}
    assert code_of(["components/c.py"], root) == {"components/c.py": "absent"}


def test_members_are_the_files_of_whatever_settings_hold():
    settings = {"attacks": [Eot(attack=Fgsm(), samples=2)], "seed": 0, "threat": None}  # pyright: ignore[reportCallIssue]
    assert members_of(settings) == {"components/attacks/fgsm.py", "components/attacks/eot.py"}


def test_the_same_whatever_is_loaded():
    """In a process that has loaded nothing, which also shows that no torch is needed."""
    stage = "components/stages/train_robust_teacher.py"
    code = (
        "import sys; from components.foundation.provenance import *;"
        f"print(fingerprint(inputs_of([{stage!r}], {{}})), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [fingerprint(inputs_of([stage], {})), "False"]


def test_a_fingerprint_is_of_values_not_of_their_order():
    assert fingerprint({"a": {"x": 1, "y": [2]}, "b": None}) == fingerprint({"b": None, "a": {"y": [2], "x": 1}})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_differences_name_files_and_keys(root):
    before = inputs_of(["components/a.py"], {"seed": 0, "recipe": {"epochs": 3, "average": None}}, root)
    (root / "components/b.py").write_text("LIMIT = 4\n")
    after = inputs_of(["components/a.py"], {"seed": 0, "recipe": {"epochs": 5}}, root)
    found = differences(before, after)
    assert found == ["components/b.py", "recipe.average: null -> absent", "recipe.epochs: 3 -> 5"]
    assert differences(before, before) == []


def test_code_that_changes_nothing_is_left_out_with_what_it_alone_imports(root):
    (root / "components/b.py").write_text("from components.c import ONE\n\nLIMIT = 3\n")
    (root / "components/c.py").write_text("ONE = 1\n")
    files = ["components/a.py", "components/b.py", "components/c.py"]
    assert list(code_of(files[:1], root)) == files
    assert list(code_of(files[:1], root, without=files[1:2])) == files[:1]
    assert list(code_of([files[0], files[2]], root, without=files[1:2])) == [files[0], files[2]]
    assert "components/b.py" not in inputs_of(files[:1], {}, root, without=files[1:2])
