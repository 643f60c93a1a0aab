"""Whatever can be started: `--help` says what it does and runs nothing, an argument that it does not know ends it."""

import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from temper.cli import app
from temper.cli import main as temper

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("components", "pipelines", "temper", "benchmarks")
MAIN = 'if __name__ == "__main__":'
# The command itself: its parts are tried one by one.
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if MAIN in path.read_text()
)


def commands(command: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of every subcommand, groups and hidden ones included."""
    yield names
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*names, name))


COMMANDS = list(commands(typer.main.get_command(app)))
WRONG = (["--bogus"], ["--bogus=1"], ["-Z"], ["--hlep"], ["--version", "--bogus"])


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: a command that ran something would leave a trace or miss its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return tmp_path


def ended(file: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of a file that is started with these arguments."""
    monkeypatch.setattr(sys, "argv", [file, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / file), run_name="__main__")
    return end.value.code if isinstance(end.value.code, int) else 0 if end.value.code is None else 1


def test_all_are_found() -> None:
    assert len(FILES) > 15 and ("params", "check") in COMMANDS and len(COMMANDS) > 15
    assert sum(file.startswith("components/stages/") for file in FILES) == 8


@pytest.mark.parametrize("file", FILES)
def test_help_of_a_file_runs_nothing(
    file: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for help_ in ("--help", "-h"):
        assert ended(file, [help_], monkeypatch) == 0
        out, error = capsys.readouterr()
        assert out.startswith("usage: ") and error == "" and list(empty.iterdir()) == []


@pytest.mark.parametrize("file", FILES)
def test_an_unknown_argument_of_a_file_is_one_line(
    file: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in WRONG:
        assert ended(file, arguments, monkeypatch) == 2
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1 and "error: " in error and error.endswith("(see --help)\n")
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_help_of_a_command_runs_nothing(
    names: tuple[str, ...], empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for help_ in ("--help", "-h"):
        assert temper([*names, help_]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: {' '.join(('temper', *names))}")
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_an_unknown_argument_of_a_command_is_one_line(
    names: tuple[str, ...], empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--bogus"], ["--bogus=1"], ["-Z"], ["--hlep"]):
        assert temper([*names, *arguments]) == 2
        out, error = capsys.readouterr()
        assert out == "" and error.startswith("error: ") and error.count("\n") == 1 and "--help" in error
    assert list(empty.iterdir()) == []
