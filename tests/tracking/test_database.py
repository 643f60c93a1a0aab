"""An MLflow database that is a file: opened by one process at a time, whole, and moved together with its artifacts."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from components.foundation.errors import InputError
from components.foundation.process import in_one_line
from components.tracking import database
from components.tracking.delivery import Unreachable
from components.tracking.mlflow_client import BOUNDS, asked
from components.tracking.mlflow_runs import connect
from tests.parts.pipeline_files import ROOT, environment

# MLflow and what it needs warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")
MAKE_A_RUN = """
import sys
from components.tracking.mlflow_runs import connect
tracker = connect(sys.argv[1])
run = tracker.client.create_run(tracker.experiment).info.run_id
tracker.client.log_text(run, "hello", "said.txt")
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*BOUNDS, "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def start(uri: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", MAKE_A_RUN, uri], env=environment(), cwd=ROOT)


def said(uri: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is in the artifact of each run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    def read(client) -> list[str]:
        place = client.get_experiment_by_name("temper").experiment_id
        runs = [run.info.run_id for run in client.search_runs([place])]
        return [Path(client.download_artifacts(run, "said.txt")).read_text() for run in runs]

    return asked(read)


def test_two_first_uses_at_once_and_a_project_that_moves(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'old/mlflow.db'}"
    processes = [start(uri), start(uri)]
    assert [process.wait() for process in processes] == [0, 0]
    assert said(uri, monkeypatch) == ["hello", "hello"]
    shutil.copytree(tmp_path / "old", tmp_path / "copy")
    (tmp_path / "old").rename(tmp_path / "moved")
    for name in ("copy", "moved"):
        assert said(f"sqlite:///{tmp_path / name / 'mlflow.db'}", monkeypatch) == ["hello", "hello"]
        with closing(sqlite3.connect(tmp_path / name / "mlflow.db")) as connection:
            assert str(tmp_path / "old") not in "\n".join(connection.iterdump())
    # Of the copy, not of what it was copied from.
    shutil.rmtree(tmp_path / "copy/mlartifacts")
    with pytest.raises(Exception, match=r"said\.txt|No such"):
        said(f"sqlite:///{tmp_path / 'copy/mlflow.db'}", monkeypatch)


def test_a_half_changed_database_is_named_with_its_remedy(tmp_path):
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE _alembic_tmp_tags (name TEXT)")
    before = path.read_bytes()
    remedy = r"mlflow\.db: a change of its tables was interrupted.*delete it, then: temper records send"
    with pytest.raises(Unreachable, match=remedy):
        connect(f"sqlite:///{path}")
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database of MLflow with one run."""
    path = tmp_path_factory.mktemp("made") / "mlflow.db"
    assert start(f"sqlite:///{path}").wait() == 0
    return path.read_bytes()


def sql(*commands: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            for command in commands:
                connection.execute(command)

    return change


def cut(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def overwritten(seed: int) -> Callable[[Path], object]:
    """Some pages of random bytes, the file's head spared."""

    def change(path: Path) -> None:
        draws, content = random.Random(seed), bytearray(path.read_bytes())
        for _ in range(40):
            begin = draws.randrange(4096, len(content) - 4096)
            content[begin : begin + 4096] = draws.randbytes(4096)
        path.write_bytes(content)

    return change


DELETE = "put back a copy of it or delete it, then: temper records send"
CHANGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    **{
        f"older: {version}": (
            sql(f"UPDATE alembic_version SET version_num = '{version}'"),
            ["made by an older version of MLflow", "back it up, then: mlflow db upgrade sqlite", DELETE],
        )
        for version in ("451aebb31d03", "0584bdc529eb")
    },
    **{
        f"unknown: {version[:9]}": (
            sql(f"UPDATE alembic_version SET version_num = '{version}'"),
            ["made by another version of MLflow", "install that one", DELETE],
        )
        for version in ("ffffffffffff", "", "\x1b[31m", "x" * 5000)
    },
    "no version": (sql("DELETE FROM alembic_version"), ["notes 0 versions", DELETE]),
    "two versions": (sql("INSERT INTO alembic_version VALUES ('a')"), ["notes 2 versions", DELETE]),
    "no table of it": (sql("DROP TABLE alembic_version"), ["notes no version", DELETE]),
    "other columns": (
        sql("DROP TABLE alembic_version", "CREATE TABLE alembic_version (a TEXT)"),
        ["cannot be read as MLflow's database"],
    ),
    **{f"cut: {share}": (cut(share), ["damaged", DELETE]) for share in (0.01, 0.3, 0.9, 0.999)},
    **{f"overwritten: {seed}": (overwritten(seed), ["damaged", DELETE]) for seed in range(4)},
}


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite"])
@pytest.mark.parametrize("kind", CHANGES)
def test_tables_of_another_version_and_damaged_files_are_named_with_their_remedy(made, tmp_path, kind, scheme):
    change, said = CHANGES[kind]
    (path := tmp_path / "mlflow.db").write_bytes(made)
    change(path)
    before = path.read_bytes()
    with pytest.raises(Unreachable) as refused:
        connect(f"{scheme}:///{path}")
    text = str(refused.value)
    assert text.startswith(f"{path}: ") and text.isprintable() and all(part in text for part in said), text
    assert path.read_bytes() == before and len(text) < 200 + 4 * len(str(path))


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite"])
def test_a_whole_database_is_opened_under_either_address(made, tmp_path, monkeypatch, scheme):
    (tmp_path / "mlflow.db").write_bytes(made)
    assert connect(f"{scheme}:///{tmp_path / 'mlflow.db'}").client.search_experiments()
    assert (tmp_path / ".mlflow.db.lock").exists()


@pytest.mark.parametrize("content", [b"no database", bytes(range(256)) * 20, b"SQLite format 3\0" + b"\xff" * 200])
def test_a_file_that_is_no_database_is_named(content, tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"mlflow\.db: no database of MLflow"), database.alone(path):
        pass
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_file_is_named(kind, tmp_path):
    kind(path := tmp_path / "mlflow.db")
    with pytest.raises(InputError, match=r"mlflow\.db: "), database.alone(path):
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_a_database_that_another_process_opens_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0.3)
    path = tmp_path / "mlflow.db"
    with (
        database.alone(path),
        pytest.raises(InputError, match=r"another process opens the database for more than 0\.3 s"),
        database.alone(path),
    ):
        pass
    with database.alone(path):
        pass


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:////a/b.db?timeout=3", "/a/b.db"),
        ("sqlite:///b.db", f"{os.getcwd()}/b.db"),
        ("sqlite+pysqlite:////a/b.db?timeout=3", "/a/b.db"),
        ("sqlite+pysqlite:///:memory:", None),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("http://host/b.db", None),
        ("postgresql://u:p@host/b.db", None),
    ],
)
def test_what_is_a_file(uri, file):
    assert database.file_of(uri) == (Path(file) if file else None)


ADDRESSES = [
    "http://[::1",
    "http://u:SECRETPW@[::1",
    "http://u:SECRETPW@127.0.0.1:99999",
    "https://u:SECRETPW@127.0.0.1:-1",
    "http://u:p/SECRETPW@127.0.0.1:9/",
    "http://u:SECRETPW@127.0.0.1:port/",
    "postgresql://u:SECRETPW@127.0.0.1:9/x",
    "mssql+pyodbc://u:SECRETPW@127.0.0.1:9/x",
    "oracle://u:SECRETPW@127.0.0.1:9/x",
    "sqlite+none:///x",
    "nonsense://u:SECRETPW@h",
    "://",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_address_of_a_tracker(address, tmp_path, monkeypatch):
    """Whatever it is, and whatever database driver it asks for that is not installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    # MLflow's clients of databases are connected when they are asked.
    with pytest.raises(InputError) as refused:
        asked(lambda client: client.search_experiments())
    said = in_one_line(refused.value)
    assert "SECRETPW" not in said and "\n" not in said and ("MLFLOW_TRACKING_URI" in said or "MLflow at " in said)
    assert list(tmp_path.iterdir()) == []
