"""The journal of an evaluation: what is finished stays finished when the process is killed; what is stale is refused.

One file, one JSON line per finished unit of work, appended by a single write. The first line is the key: the hashes of
models, data, threat model, attacks and seed. Several processes may share a journal: each claims what it works on,
appends what it did and reads what the others did.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from components.foundation.errors import InputError
from components.foundation.storage import beginning, locked, require_bytes

SCHEMA = "temper/outcome-journal/1"
# No unit has this name.
APPENDING = "\n"


class OutcomeJournal:
    """The finished units of one evaluation, by name. `id` is short for its key.

    `shared`: another process had it open when this one came.
    """

    def __init__(self, path: Path, file: BinaryIO, claims: BinaryIO, head: bytes, shared: bool) -> None:
        self.path, self.id, self.shared = path, hashlib.sha256(head).hexdigest()[:12], shared
        self.units: dict[str, dict[str, Any]] = {}
        self._file, self._claims, self._read = file, claims, len(head)
        self.refresh()

    @classmethod
    @contextmanager
    def open(cls, path: Path | str, key: Mapping[str, Any]) -> Generator["OutcomeJournal"]:
        """The journal at `path`, begun if it is not there. Error: it belongs to another key; the message says how."""
        path = Path(path)
        head = _line({"schema": SCHEMA, "key": key})
        if path.is_dir():
            raise InputError(f"{path}: a folder, want the journal of an evaluation, or nothing there")
        if not path.exists():
            with beginning(path) as begun:
                begun.write(head)
        require_bytes(path)
        with path.open("r+b", buffering=0) as file:
            # Before anything is changed: the file may be someone else's.
            if (first := file.readline()) != head:
                raise InputError(f"{path}: {_difference(first, json.loads(head)['key'])}; delete it to start anew")
            shared = not _drop_torn_line(file)
            with path.with_name(f".{path.name}.claims").open("ab") as claims:
                yield cls(path, file, claims, head, shared)

    @contextmanager
    def claim(self, name: str, wait: bool = False) -> Generator[bool]:
        """Whether no other process may do the same inside the block; `wait` for it if one does.

        A claim ends with the block, or with its process. What the last holder appended has been read.
        """
        place = _place(name)
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
        except (BlockingIOError, PermissionError):
            yield False
            return
        try:
            self.refresh()
            yield True
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, place)

    def append(self, unit: str, record: Mapping[str, Any]) -> None:
        """Adds a finished unit; it is on the disk when this returns."""
        data = _line({"unit": unit, **record})
        # One write to a file opened for appending: lines of processes that share the journal never mix.
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        # A line that another process is writing may look like half a one, where it goes over the end of a page.
        fcntl.lockf(self._claims, fcntl.LOCK_EX, 1, _place(APPENDING))
        try:
            if os.pread(descriptor, 1, os.fstat(descriptor).st_size - 1) != b"\n":
                # Half a line that a process beside this one left when it died.
                data = b"\n" + data
            written = os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, _place(APPENDING))
            os.close(descriptor)
        if written != len(data):
            raise OSError(f"{self.path}: only {written} of {len(data)} bytes written")
        self.refresh()

    def refresh(self) -> None:
        """Reads what was appended since the last look, by this process or another."""
        self._file.seek(self._read)
        for line in self._file.readlines():
            if not line.endswith(b"\n"):
                break
            self._read += len(line)
            # Half a line is work that was not finished.
            with suppress(ValueError, RecursionError, KeyError, AttributeError, TypeError):
                record = json.loads(line)
                self.units.setdefault(str(record.pop("unit")), record)


def _place(name: str) -> int:
    """Which byte of a file that has none is locked in this name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _drop_torn_line(file: BinaryIO) -> bool:
    """Cuts off half a line that a kill or a full disk left; not where another process has the journal and may write.

    Returns whether this process was alone with it.
    """
    if alone := locked(file.fileno()):
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
    fcntl.flock(file, fcntl.LOCK_SH)
    return alone


def key_of(path: Path) -> dict[str, Any]:
    """What the journal at `path` belongs to; empty where it is none."""
    with path.open("rb") as file:
        return _key_in(file.readline())


def _key_in(first: bytes) -> dict[str, Any]:
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        head = json.loads(first)
        if head.get("schema") == SCHEMA and isinstance(head["key"], dict):
            return head["key"]
    return {}


def _difference(first: bytes, key: Mapping[str, Any]) -> str:
    """How the journal's first line differs from the key wanted, in words."""
    found = _key_in(first)
    if not found:
        return "no journal of an evaluation"
    name = next((name for name in {**key, **found} if key.get(name) != found.get(name)), "key")
    return f"a journal of another evaluation: {name} was {found.get(name)!r}, is {key.get(name)!r}"
