"""Layout, locks and send state of journal folders.

One folder per pipeline run, one journal per stage, beside it the state of its sending:

    .temper/journals/<pipeline>/<stage>.jsonl, <stage>.sent.json, files/ (artifacts not sent yet), forwarder.log

A writer holds a lock on its journal as long as it lives, so that others see when it is gone. A forwarder holds one on
the folder. Imports neither MLflow nor torch.
"""

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard, cast

from components.foundation.errors import InputError
from components.foundation.params import is_mapping, typed
from components.foundation.process import new_pipeline_id
from components.foundation.storage import beginning, locked, read_mapping, write_json

# The last stage of a pipeline run: its successful end closes the run.
CLOSING_STAGE = "report"
# Names the pipeline run that stages belong to which nobody else has named.
OPEN = "pipeline.json"
# A writer that is being killed, or a forwarder looking whether the writer lives, holds the lock only for moments.
LOCK_SECONDS = 10
# One part of a path, and not a hidden one.
_NAME = re.compile(r"[\w-][\w.-]{0,99}", re.ASCII)
# A copy of a file, in a folder of its own under that of the pipeline run.
_KEPT = re.compile(r"files/[0-9a-f]{12}/(?!\.\.?$)[^/]+", re.DOTALL)


@dataclass
class Sent:
    """How far a journal has been sent: to which tracker (without secrets) and run, how many lines, the obstacle.

    `pages` are the tracker's pages for people, by name, behind its server's address.
    """

    tracker: str = ""
    run: str = ""
    sent: int = 0
    problem: str = ""
    pages: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, journal: Path) -> "Sent":
        """The state beside a journal, or the state of one never sent."""
        try:
            noted = read_mapping(journal.with_suffix(".sent.json"))
            # Other versions noted more, or less.
            known = {one.name: noted[one.name] for one in fields(cls) if one.name in noted}
            return typed(cls, known, str(journal))
        except InputError:
            return cls()

    def save(self, journal: Path) -> None:
        """Replaces the state beside a journal in one step."""
        write_json(journal.with_suffix(".sent.json"), asdict(self))


class Reader:
    """Reads a journal as it grows: `new()` gives what was added, `lines` counts, `status` is RUNNING until an end."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines, self.status, self.inputs = path, 0, "RUNNING", ""
        self._offset = 0

    @classmethod
    def to_end(cls, path: Path) -> "Reader":
        """One that has read all there is."""
        reader = cls(path)
        reader.new()
        return reader

    def new(self) -> list[tuple[int, dict[str, Any]]]:
        """Line numbers (from 1) and events added since the last call; a line torn by a crash is counted and skipped."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            *whole, _ = file.read().split(b"\n")
        events = []
        for line in whole:
            self._offset += len(line) + 1
            self.lines += 1
            # Half a line, or what somebody else has written there, is no record.
            with suppress(ValueError, RecursionError):
                event = json.loads(line)
                if _is_record(event):
                    events.append((self.lines, event))
        for _, event in events:
            if event["event"] in ("open", "end"):
                self.status = event.get("status", "RUNNING")
                self.inputs = event.get("inputs", self.inputs)
        return events


def _is_record(event: object) -> TypeGuard[dict[str, Any]]:
    """Whether a line is a record, whose files are where a stage puts them: they are sent, and removed then."""
    if not is_mapping(event) or not isinstance(event.get("event"), str) or type(event.get("time")) is not int:
        return False
    kept = event.get("kept", [])
    if (event["event"] == "metrics" or "metrics" in event) and not (
        is_mapping(event.get("metrics")) and "step" in event
    ):
        return False
    return isinstance(kept, list) and all(_KEPT.fullmatch(str(path)) for path in cast(list[object], kept))


def folder_of(root: Path, pipeline: str) -> Path:
    """The folder of a pipeline run's journals."""
    return root / "journals" / _part(pipeline)


def _part(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)


def journals(folder: Path) -> list[Path]:
    """The journals of a pipeline run."""
    return sorted(path for path in folder.glob("*.jsonl") if path.is_file())


def stage_of(journal: Path) -> str:
    """The stage a journal belongs to."""
    return journal.name.split(".")[0]


def is_sent(journal: Path) -> bool:
    """Whether a journal has ended and all of it has been sent."""
    reader = Reader.to_end(journal)
    return reader.status != "RUNNING" and Sent.of(journal).sent >= reader.lines


def pipeline_status(folder: Path) -> str:
    """RUNNING while a stage runs, else FAILED or KILLED if the last run of a stage was, else FINISHED."""
    older_first = sorted(journals(folder), key=lambda path: path.stat().st_mtime)
    last = {stage_of(path): Reader.to_end(path).status for path in older_first}
    return next((status for status in ("RUNNING", "FAILED", "KILLED") if status in last.values()), "FINISHED")


def pipeline_id(root: Path) -> str:
    """The pipeline run: TEMPER_PIPELINE (from the flow), else the one open in pipeline.json, opened here if none is.

    A file that a power cut has left without content is none. Errors: a name that is no single part of a path.
    """
    if given := os.environ.get("TEMPER_PIPELINE"):
        if not _NAME.fullmatch(_part(given)):
            raise InputError(f"TEMPER_PIPELINE: got {given!r}, want a name of at most 100 characters, no '.' in front")
        return given
    if opened := open_pipeline(root):
        return opened
    now = datetime.now(UTC)
    opened = {"id": new_pipeline_id(now), "opened": now.isoformat(timespec="seconds")}
    with suppress(FileNotFoundError):
        (root / OPEN).unlink()
    with beginning(root / OPEN) as file:
        file.write(f"{json.dumps(opened)}\n".encode())
    return open_pipeline(root) or str(opened["id"])


def open_pipeline(root: Path) -> str | None:
    """The pipeline run that is open in pipeline.json; None where there is none, or nothing that is a name."""
    with suppress(InputError):
        name = read_mapping(root / OPEN).get("id")
        return name if isinstance(name, str) and _NAME.fullmatch(name) else None
    return None


def forget(journal: Path) -> None:
    """Removes a journal that is not to be kept, with its folder where that was all."""
    journal.unlink(missing_ok=True)
    with suppress(OSError):
        journal.parent.rmdir()


def labels() -> dict[str, str]:
    """Tags that every run carries: TEMPER_LABELS, a JSON mapping of texts; anything else is none."""
    with suppress(ValueError):
        found = json.loads(os.environ.get("TEMPER_LABELS", ""))
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
    return {}


def experiment_name() -> str:
    """The experiment that records of this process belong to."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "temper"


def close_pipeline(root: Path, pipeline: str) -> None:
    """Closes the pipeline run if it is the open one, so that the next stage opens another."""
    if open_pipeline(root) == pipeline:
        (root / OPEN).unlink(missing_ok=True)


def end_abandoned(journal: Path) -> None:
    """Writes the end that a killed writer could not: KILLED. A living writer holds the lock, and nothing happens."""
    file = os.open(journal, os.O_APPEND | os.O_RDWR)
    try:
        if locked(file) and Reader.to_end(journal).status == "RUNNING":
            line = json.dumps({"time": os.stat(file).st_mtime_ns // 1_000, "event": "end", "status": "KILLED"})
            os.write(file, f"{gap(file)}{line}\n".encode())
    finally:
        os.close(file)


def journal_for(folder: Path, stage: str, inputs: str) -> Path:
    """The stage's unfinished journal of the same inputs, else a new one: `stage.jsonl`, `stage.2.jsonl`, …"""
    path, number = folder / f"{stage}.jsonl", 1
    while path.exists():
        if path.is_file() and (reader := Reader.to_end(path)).status != "FINISHED" and reader.inputs in ("", inputs):
            break
        number += 1
        path = folder / f"{stage}.{number}.jsonl"
    return path


def own(file: int, stage: str) -> None:
    """Takes the writer's lock. Errors: another process is running the stage."""
    deadline = time.monotonic() + LOCK_SECONDS
    while not locked(file):
        if time.monotonic() > deadline:
            os.close(file)
            raise InputError(f"{stage}: this stage is running already (its journal is locked by another process)")
        time.sleep(0.05)


def gap(file: int) -> str:
    """A line break where a crash has torn the last line, else nothing."""
    size = os.fstat(file).st_size
    return "\n" if size and os.pread(file, 1, size - 1) != b"\n" else ""
