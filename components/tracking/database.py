"""An MLflow database that is a file: one process at a time opens it, and its artifacts stay beside it.

MLflow makes and changes the tables when it opens a file, without a lock, and two that do so at once leave it broken. It
also stores absolute paths, so a project that was moved or copied would look for its artifacts where they were. Knows
SQLite, not MLflow.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from components.foundation.errors import InputError
from components.foundation.storage import locked, reading

SQLITE = "sqlite:///"
ARTIFACTS = "mlartifacts"
HEAD = b"SQLite format 3\0"
# A first use makes some fifty tables, which takes seconds, on a busy machine many.
PATIENCE_SECONDS, POLL_SECONDS = 60, 0.1
# Where MLflow stores the paths of artifacts.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def file_of(uri: str) -> Path | None:
    """The file of a SQLite database, absolute; None where the address is of something else, or of memory."""
    path = uri.removeprefix(SQLITE).partition("?")[0]
    return Path(path).absolute() if uri.startswith(SQLITE) and path not in ("", ":memory:") else None


@contextmanager
def alone(database: Path) -> Iterator[None]:
    """Inside the block no other process of ours opens the database, which is whole and knows where its artifacts are.

    Errors: another process takes too long; a database that was left half-changed.
    """
    # Before a file is put beside what is not ours.
    if database.exists():
        _require_database(database)
    with _lock(database.with_name(f".{database.name}.lock")):
        if database.exists():
            _require_whole(database)
            _bring_along(database)
        yield


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        _wait(file, path)
        yield


def _wait(file: BinaryIO, path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not locked(file.fileno()):
        if time.monotonic() > deadline:
            raise InputError(f"{path}: another process opens the database for more than {PATIENCE_SECONDS} s")
        time.sleep(POLL_SECONDS)


def _require_database(database: Path) -> None:
    """Refuses what is no file of SQLite; an empty one is."""
    with reading(database, "no database of MLflow"), database.open("rb") as file:
        if file.read(len(HEAD)) not in (b"", HEAD):
            raise InputError(f"{database}: no database of MLflow")


def _require_whole(database: Path) -> None:
    """Refuses a file in which a change of the tables was begun and not ended: MLflow fails on it for ever."""
    query = r"SELECT name FROM sqlite_master WHERE name LIKE '\_alembic\_tmp\_%' ESCAPE '\'"
    try:
        with closing(sqlite3.connect(database)) as connection:
            names = [name for (name,) in connection.execute(query)]
    except sqlite3.DatabaseError as error:
        raise InputError(f"{database}: no database of MLflow ({error})") from None
    if names:
        advice = "put back a copy of it or delete it, then: temper records send"
        raise InputError(f"{database}: a change of its tables was interrupted ({names[0]}); {advice}")


def _bring_along(database: Path) -> None:
    """Has the paths of artifacts that lie beside the database say so, wherever it was when they were stored."""
    # A database that may not be written is read as it is.
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(database)) as connection, connection:
        here = str(database.parent / ARTIFACTS)
        query = f"SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE '%/{ARTIFACTS}'"
        for (old,) in connection.execute(query).fetchall():
            for table, column in _PLACES if old.removeprefix("file://") != here else ():
                place = f"{column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?"
                told = (here, len(old) + 1, old, len(old) + 1, f"{old}/")
                connection.execute(f"UPDATE {table} SET {place}", told)
