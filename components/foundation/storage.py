"""Files that are whole or absent, and the same bytes for the same content: safetensors, JSON and CSV, no pickle."""

import csv
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from components.foundation.errors import InputError


@contextmanager
def replacing(path: Path | str) -> Generator[Path]:
    """A temporary path that replaces `path` only if the block succeeds, so no reader sees half a file."""
    with _partial(Path(path)) as partial:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)


@contextmanager
def beginning(path: Path | str) -> Generator[BinaryIO]:
    """A file whose content becomes `path` only if the block succeeds, and only if `path` does not exist by then.

    For files that several processes begin and then fill together: a file that one has begun is not replaced by another.
    """
    with _partial(Path(path)) as partial:
        with partial.open("wb") as file:
            yield file
        # A link, unlike a rename, never replaces a file.
        with suppress(FileExistsError):
            os.link(partial, path)


@contextmanager
def _partial(path: Path) -> Generator[Path]:
    """A name beside `path` for what is not whole yet; nothing has it after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def locked(file: int) -> bool:
    """Whether this process could take the lock on an open file, without waiting. It goes when the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8 text atomically; line ends stay as they are."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path | str, value: Any) -> None:
    """Writes indented JSON; NaN and infinity are refused, since JSON has no form for them."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The content of a JSON file. Errors: missing or broken file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from None


def write_csv(path: Path | str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes one line per row; columns in order of first appearance, an absent value left empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path | str) -> list[dict[str, str]]:
    """The rows of a CSV file as text. Errors: missing file, no header, a line with too few or too many columns."""
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            header, rows = reader.fieldnames, list(reader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    if not header or any(None in row or None in row.values() for row in rows):
        raise InputError(f"{path}: truncated, or no CSV table")
    return rows


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
