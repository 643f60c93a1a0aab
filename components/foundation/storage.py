"""Files that are whole or absent, and the same bytes for the same content: safetensors, JSON and CSV, no pickle."""

import csv
import fcntl
import hashlib
import io
import json
import os
import stat
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from components.foundation.errors import InputError
from components.foundation.memory import lack_of_memory


@contextmanager
def replacing(path: Path | str) -> Generator[Path]:
    """A temporary path that replaces `path` only if the block succeeds, so no reader sees half a file.

    It is on the disk then: a power cut leaves the old file or the new one. Errors of writing name `path`.
    """
    path = Path(path)
    with _partial(path) as partial:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _keep_names(path.parent)


@contextmanager
def beginning(path: Path | str) -> Generator[BinaryIO]:
    """A file whose content becomes `path` only if the block succeeds, and only if `path` does not exist by then.

    For files that several processes begin and then fill together: a file that one has begun is not replaced by another.
    """
    path = Path(path)
    with _partial(path) as partial:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces a file.
        with suppress(FileExistsError):
            os.link(partial, path)
        _keep_names(path.parent)


@contextmanager
def _partial(path: Path) -> Generator[Path]:
    """A name beside `path` for what is not whole yet; nothing has it after the block."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with _naming(path, partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        # Locked while its writer lives, so that whoever sweeps can tell, in whatever container.
        file = os.open(partial, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            locked(file)
            yield partial
        finally:
            os.close(file)
            partial.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path, partial: Path) -> Generator[None]:
    """Has errors of writing name `path`: those of an open file name none, and nobody knows the temporary path."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) == str(partial):
            error.filename, error.filename2 = str(path), None
        raise


def _sweep(path: Path) -> None:
    """Removes what processes that are gone have left half-written beside `path`."""
    start, end = f".{path.name}.", ".partial"
    for name in os.listdir(path.parent):
        process = name.removeprefix(start).removesuffix(end)
        if name == f"{start}{process}{end}" and process.isdecimal() and _is_gone(int(process)):
            _remove_unlocked(path.parent / name)


def _is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _remove_unlocked(partial: Path) -> None:
    with suppress(OSError):
        file = os.open(partial, os.O_RDWR)
        try:
            if locked(file):
                partial.unlink()
        finally:
            os.close(file)


def _keep_names(folder: Path) -> None:
    """Has the disk keep the names in a folder, as far as its file system can."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


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


def read_text(path: Path | str) -> str:
    """The UTF-8 text in a file, line ends as they are. Errors: missing or unreadable file, other bytes."""
    with reading(path, "not UTF-8 text"), Path(path).open(encoding="utf-8", newline="") as file:
        return file.read()


def read_json(path: Path | str) -> Any:
    """The content of a JSON file. Errors: missing or broken file, numbers that JSON has no form for."""
    with reading(path, "not readable as JSON"):
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)


def read_mapping(path: Path | str) -> dict[str, Any]:
    """The mapping in a JSON file. Errors: those of `read_json`, anything but a mapping."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, want a mapping")
    return cast(dict[str, Any], value)


def read_state(path: Path | str) -> dict[str, Any]:
    """The JSON object of a file that only this program writes; empty where there is none, or nothing that is one.

    After a power cut such a file may hold anything, and then it is as good as absent.
    """
    with suppress(InputError):
        return read_mapping(path)
    return {}


@contextmanager
def reading(path: Path | str, otherwise: str) -> Generator[None]:
    """Has what goes wrong while a file is read end in one line: its path, and `otherwise` where its content is wrong.

    A lack of memory is no fault of the file and stays what it is.

    For content that is looked at piece by piece. What is a document is checked as a whole (`read_document`).
    """
    with told_of(path, otherwise):
        require_bytes(path)
        yield


@contextmanager
def told_of(path: Path | str, otherwise: str) -> Generator[None]:
    """The same for what a file held, once it has been read; `path` may be any name that people know it by."""
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError) as error:
        if lack_of_memory(error):
            raise
        raise _of_reading(error, path, otherwise) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _of_reading(error, path, otherwise) from None


def _of_reading(error: Exception, path: Path | str, otherwise: str) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file")
    if isinstance(error, OSError):
        return InputError(f"{path}: {error.strerror or f'{otherwise}: {error}'}")
    return InputError(f"{path}: {otherwise}: {_why(error)}")


def require_bytes(path: Path | str) -> None:
    """Refuses pipes and devices, which whoever opens them may wait for without end. Errors: also nothing there."""
    if not (stat.S_ISREG(mode := os.stat(path).st_mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: want a regular file")


def _why(error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return f"no {said}" if isinstance(error, KeyError) else said


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


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
    broken = "truncated, or no CSV table"
    try:
        with reading(path, broken), Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            header, rows = reader.fieldnames, list(reader)
    except csv.Error as error:
        raise InputError(f"{path}: {broken}: {error}") from None
    if not header or any(None in row or None in row.values() for row in rows):
        raise InputError(f"{path}: {broken}")
    return rows


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with reading(path, "not readable"), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
