"""An MLflow database that is a file: one process at a time opens it, and its artifacts stay beside it.

MLflow makes and changes the tables when it opens a file, without a lock, and two that do so at once leave it broken. It
also stores absolute paths, so a project that was moved or copied would look for its artifacts where they were. Knows
SQLite, not MLflow.
"""

import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.storage import locked, reading

SQLITE = ("sqlite:///", "sqlite+pysqlite:///")
ARTIFACTS = "mlartifacts"
HEAD = b"SQLite format 3\0"
# A first use makes some fifty tables, which takes seconds, on a busy machine many.
PATIENCE_SECONDS, POLL_SECONDS = 60, 0.1
# Bytes of a database that is looked through each time it is opened, which takes a part of a second.
MOST_LOOKED_THROUGH = 2**27
# Where MLflow notes which version of it made the tables.
VERSION = "alembic_version"
PUT_BACK = "put back a copy of it or delete it, then: temper records send"
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
    start = next((start for start in SQLITE if uri.startswith(start)), None)
    path = uri.removeprefix(start).partition("?")[0] if start else ""
    return Path(path).absolute() if path not in ("", ":memory:") else None


@contextmanager
def alone(database: Path, look: Callable[[Path], None] = lambda _: None) -> Iterator[None]:
    """Inside the block no other process of ours opens the database, which is whole and knows where its artifacts are.

    `look` may refuse a database that is there before anything is written into it. Errors: another process takes too
    long; a database that is damaged or was left half-changed.
    """
    # Before a file is put beside what is not ours.
    if database.exists():
        _require_database(database)
    with _lock(database.with_name(f".{database.name}.lock")):
        if database.exists():
            _require_whole(database)
            look(database)
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
    """Refuses a file that is damaged, or in which a change of the tables was begun and not ended."""
    try:
        with closing(sqlite3.connect(database)) as connection:
            small = database.stat().st_size <= MOST_LOOKED_THROUGH
            (state,) = connection.execute("PRAGMA quick_check(1)").fetchone() if small else ("ok",)
            (page,) = connection.execute("PRAGMA page_size").fetchone()
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            versions = _versions(connection) if VERSION in names else []
    except sqlite3.OperationalError as error:
        # It may be whole: busy, or not ours to read.
        raise InputError(f"{database}: cannot be read as MLflow's database ({error})") from None
    except sqlite3.DatabaseError as error:
        raise InputError(f"{database}: no database of MLflow, or damaged ({error}); {PUT_BACK}") from None
    # A last page that is cut reads as one with zeros in it.
    state = f"{rest} bytes of a page at its end" if (rest := database.stat().st_size % page) else state
    if state != "ok":
        raise InputError(f"{database}: damaged ({one_line(state.splitlines()[-1])[:80]}); {PUT_BACK}")
    if half := sorted(name for name in names if name.startswith("_alembic_tmp_")):
        raise InputError(f"{database}: a change of its tables was interrupted ({half[0]}); {PUT_BACK}")
    if names and len(versions) != 1:
        about = f"{len(versions)} versions" if VERSION in names else "no version"
        advice = f"name another file in MLFLOW_TRACKING_URI, or {PUT_BACK}"
        raise InputError(f"{database}: notes {about} of MLflow's tables, want one; {advice}")


def _versions(connection: sqlite3.Connection) -> list[str]:
    return [str(version) for (version,) in connection.execute(f"SELECT version_num FROM {VERSION}")]


def require_version(database: Path, uri: str, known: Collection[str], newest: str) -> None:
    """Refuses tables of another version of MLflow than the installed one, which knows the `known` versions."""
    with closing(sqlite3.connect(database)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        (version,) = _versions(connection) if names else [newest]
    if version == newest:
        return
    if version not in known:
        told = one_line(repr(version))[:40]
        advice = f"install that one, or {PUT_BACK}"
        raise InputError(f"{database}: made by another version of MLflow, unknown here ({told}); {advice}")
    advice = f"back it up, then: mlflow db upgrade {uri}; should that fail, {PUT_BACK}"
    raise InputError(f"{database}: made by an older version of MLflow ({version}, not {newest}); {advice}")


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
