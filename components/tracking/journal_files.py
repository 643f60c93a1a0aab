"""Layout, locks and send state of journal folders.

One folder per pipeline run, one journal per stage, beside it the state of its sending:

    .temper/journals/<pipeline>/<stage>.jsonl, <stage>.sent.json, files/ (artifacts not sent yet), forwarder.log

A writer holds a lock on its journal as long as it lives, so that others see when it is gone. A forwarder holds one on
the folder. Imports neither MLflow nor torch.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from components.foundation.process import new_pipeline_id

# The last stage of a pipeline run: its successful end closes the run.
CLOSING_STAGE = "report"
# A writer that is being killed, or a forwarder looking whether the writer lives, holds the lock only for moments.
LOCK_SECONDS = 10


@dataclass
class Sent:
    """How far a journal has been sent: to which tracker and run, how many lines, and what was in the way."""

    tracker: str = ""
    run: str = ""
    sent: int = 0
    problem: str = ""

    @classmethod
    def of(cls, journal: Path) -> "Sent":
        """The state beside a journal, or the state of one never sent."""
        try:
            noted = json.loads(journal.with_suffix(".sent.json").read_text(encoding="utf-8"))
            # Versions before this one noted more.
            return cls(**{field.name: noted[field.name] for field in fields(cls)})
        except (OSError, ValueError, TypeError, KeyError):
            return cls()

    def save(self, journal: Path) -> None:
        """Replaces the state beside a journal in one step."""
        partial = journal.with_suffix(".sent.partial")
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        partial.replace(journal.with_suffix(".sent.json"))


class Reader:
    """Reads a journal as it grows: `new()` gives what was added, `lines` counts, `status` is RUNNING until an end."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines, self.status, self.inputs = path, 0, "RUNNING", ""
        self._offset = 0

    def new(self) -> list[tuple[int, dict[str, Any]]]:
        """Line numbers (from 1) and events added since the last call; a line torn by a crash is counted and skipped."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            *whole, _ = file.read().split(b"\n")
        events = []
        for line in whole:
            self._offset += len(line) + 1
            self.lines += 1
            with contextlib.suppress(ValueError):
                events.append((self.lines, json.loads(line)))
        for _, event in events:
            if event["event"] in ("open", "end"):
                self.status = event.get("status", "RUNNING")
                self.inputs = event.get("inputs", self.inputs)
        return events


def folder_of(root: Path, pipeline: str) -> Path:
    """The folder of a pipeline run's journals."""
    return root / "journals" / re.sub(r"[^\w.-]", "-", pipeline)


def journals(folder: Path) -> list[Path]:
    """The journals of a pipeline run."""
    return sorted(folder.glob("*.jsonl"))


def stage_of(journal: Path) -> str:
    """The stage a journal belongs to."""
    return journal.name.split(".")[0]


def is_sent(journal: Path) -> bool:
    """Whether a journal has ended and all of it has been sent."""
    reader = Reader(journal)
    reader.new()
    return reader.status != "RUNNING" and Sent.of(journal).sent >= reader.lines


def pipeline_status(folder: Path) -> str:
    """RUNNING while a stage runs, else FAILED or KILLED if the last run of a stage was, else FINISHED."""
    last: dict[str, str] = {}
    for path in sorted(journals(folder), key=lambda path: path.stat().st_mtime):
        reader = Reader(path)
        reader.new()
        last[stage_of(path)] = reader.status
    return next((status for status in ("RUNNING", "FAILED", "KILLED") if status in last.values()), "FINISHED")


def pipeline_id(root: Path) -> str:
    """The pipeline run: TEMPER_PIPELINE (from the flow), else the one open in pipeline.json, opened here if none is."""
    if given := os.environ.get("TEMPER_PIPELINE"):
        return given
    root.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    opened = {"id": new_pipeline_id(now), "opened": now.isoformat(timespec="seconds")}
    mine = root / f".pipeline.{os.getpid()}.{secrets.token_hex(4)}"
    mine.write_text(json.dumps(opened) + "\n", encoding="utf-8")
    try:
        # A link, unlike a rename, never takes the place of one that a parallel stage opened first.
        os.link(mine, root / "pipeline.json")
    except FileExistsError:
        opened = json.loads((root / "pipeline.json").read_text(encoding="utf-8"))
    finally:
        mine.unlink()
    return opened["id"]


def labels() -> dict[str, str]:
    """Tags that every run carries: TEMPER_LABELS, a JSON mapping of texts; anything else is none."""
    with contextlib.suppress(ValueError):
        found = json.loads(os.environ.get("TEMPER_LABELS", ""))
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
    return {}


def close_pipeline(root: Path, pipeline: str) -> None:
    """Closes the pipeline run if it is the open one, so that the next stage opens another."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads((root / "pipeline.json").read_text(encoding="utf-8"))["id"] == pipeline:
            (root / "pipeline.json").unlink()


def end_abandoned(journal: Path) -> None:
    """Writes the end that a killed writer could not: KILLED. A living writer holds the lock, and nothing happens."""
    file = os.open(journal, os.O_APPEND | os.O_RDWR)
    try:
        reader = Reader(journal)
        if not locked(file, fcntl.LOCK_EX):
            return
        reader.new()
        if reader.status == "RUNNING":
            line = json.dumps({"time": os.stat(file).st_mtime_ns // 1_000, "event": "end", "status": "KILLED"})
            os.write(file, f"{gap(file)}{line}\n".encode())
    finally:
        os.close(file)


def journal_for(folder: Path, stage: str, inputs: str) -> Path:
    """The stage's unfinished journal of the same inputs, else a new one: `stage.jsonl`, `stage.2.jsonl`, …"""
    path, number = folder / f"{stage}.jsonl", 1
    while path.exists():
        reader = Reader(path)
        reader.new()
        if reader.status != "FINISHED" and reader.inputs in ("", inputs):
            break
        number += 1
        path = folder / f"{stage}.{number}.jsonl"
    return path


def locked(file: int, kind: int) -> bool:
    """Whether this process could take the lock (LOCK_EX or LOCK_SH) on an open file, without waiting."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def own(file: int, stage: str) -> None:
    """Takes the writer's lock. Errors: another process is running the stage."""
    deadline = time.monotonic() + LOCK_SECONDS
    while not locked(file, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            os.close(file)
            raise InputError(f"{stage}: this stage is running already (its journal is locked by another process)")
        time.sleep(0.05)


def gap(file: int) -> str:
    """A line break where a crash has torn the last line, else nothing."""
    size = os.fstat(file).st_size
    return "\n" if size and os.pread(file, 1, size - 1) != b"\n" else ""
