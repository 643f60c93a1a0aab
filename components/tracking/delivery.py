"""Brings the records of journals to a tracker: in order, once, later if need be. Knows no tracker (`tracking.py` does).

A tracker is whatever takes records. What it has taken is noted after each step (`Sent`), so a forwarder that dies goes
on where it was; what it refuses is reported and passed; when it cannot be reached the records stay, and the reason is
noted for the stage to say. One forwarder at a time serves a pipeline run's folder.
"""

import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from components.tracking.journal_files import (
    CLOSING_STAGE,
    Reader,
    Sent,
    end_abandoned,
    is_sent,
    journals,
    locked,
    stage_of,
)

Event = Mapping[str, Any]

POLL_SECONDS = 0.2
# Longer than DVC or Prefect takes from the end of one stage to the start of the next.
LINGER_SECONDS = 20
RETRY_SECONDS = 15
CONNECT_SECONDS = 2
PORTS = {"http": 80, "https": 443}
# A stage that looks whether a forwarder is on duty holds the lock for a moment.
LOCK_SECONDS = 1


class Unreachable(Exception):
    """The tracker cannot take records now: why, in one line."""


class Refused(Exception):
    """The tracker does not take this record, now or later: why, in one line."""


class Outbox:
    """A journal's records on their way: what is waiting, and which metrics are sent already."""

    def __init__(self, path: Path, place: str) -> None:
        self.path, self.reader, self.state = path, Reader(path), Sent.of(path)
        if self.state.tracker != place and not is_sent(path):
            self.state = Sent(tracker=place)
        self.waiting: list[tuple[int, Event]] = []
        self.notes: list[str] = []
        self._refused = ""
        self._seen: set[tuple[str, int | None]] = set()

    def pull(self) -> bool:
        """Reads what the journal has gained; true if anything is to be sent."""
        for number, event in self.reader.new():
            if event["event"] == "note":
                self.notes.append(event["text"])
            if number > self.state.sent:
                self.waiting.append((number, event))
            else:
                self._seen.update(_points(event))
        return bool(self.waiting)

    def push(self, tracker: "Tracker") -> None:
        """Sends what is waiting; what has succeeded stays so. Errors: Unreachable."""
        while self.waiting:
            count = self._ready()
            events = [event for _, event in self.waiting[:count]]
            try:
                tracker.send(self, [self._unseen(event) for event in events])
            except Refused as error:
                self._refused = f"MLflow refused a record: {error}"
                print(self.path, self._refused, events, file=sys.stderr, flush=True)
            for event in events:
                self._seen.update(_points(event))
            self.note(self.waiting[count - 1][0], self._refused)
            for kept in (kept for event in events for kept in event.get("kept", ())):
                shutil.rmtree((self.path.parent / kept).parent, ignore_errors=True)
            del self.waiting[:count]

    def note(self, sent: int, problem: str) -> None:
        """Notes beside the journal how far it is sent and what is in the way."""
        self.state.sent, self.state.tried, self.state.problem = sent, self.reader.lines, problem
        self.state.save(self.path)

    def _ready(self) -> int:
        # All metrics in a row go as one batch, anything else alone.
        count = 0
        while count < len(self.waiting) and self.waiting[count][1]["event"] == "metrics":
            count += 1
        return count or 1

    def _unseen(self, event: Event) -> Event:
        """The record without the metrics that an attempt killed before has recorded already."""
        if "metrics" not in event:
            return event
        fresh = {key: value for key, value in event["metrics"].items() if (key, event["step"]) not in self._seen}
        return {**event, "metrics": fresh}


class Tracker(Protocol):
    """Where records go."""

    def send(self, box: Outbox, events: list[Event]) -> None:
        """Takes one record, or several of metrics. Errors: Unreachable, Refused."""
        ...


class Desk:
    """Serves the journals of one pipeline run."""

    def __init__(self, folder: Path, place: str, connect: Callable[[str], Tracker]) -> None:
        self.folder, self.place, self.connect = folder, place, connect
        self.boxes: dict[Path, Outbox] = {}
        self.problem = ""
        self._tracker: Tracker | None = None
        self._retry_at = 0.0

    def turn(self) -> bool:
        """Sends everything there is now; true if anything was sent."""
        waiting = self._pull()
        urgent = any(box.reader.status != "RUNNING" and box.state.tried < box.reader.lines for box in waiting)
        if not waiting or (time.monotonic() < self._retry_at and not urgent):
            return False
        try:
            self._tracker = self._tracker or self.connect(self.place)
            for box in waiting:
                box.push(self._tracker)
        except Unreachable as error:
            self._give_up(waiting, str(error))
            return False
        self.problem = ""
        return True

    def running(self) -> bool:
        """Whether a stage is still writing."""
        return any(box.reader.status == "RUNNING" for box in self.boxes.values())

    def follow(self) -> None:
        """Serves until the pipeline run is over, or nothing has happened for a while, or nothing can be sent."""
        quiet_since = time.monotonic()
        while True:
            if self.turn() or self.running():
                quiet_since = time.monotonic()
            over = self._closed() or self.problem or time.monotonic() - quiet_since > LINGER_SECONDS
            if over and not self.running():
                return
            time.sleep(POLL_SECONDS)

    def has_news(self) -> bool:
        """Whether a journal has grown since the last turn."""
        return any(path not in self.boxes or self.boxes[path].reader.grown() for path in journals(self.folder))

    def _pull(self) -> list[Outbox]:
        for path in journals(self.folder):
            box = self.boxes.setdefault(path, Outbox(path, self.place))
            box.pull()
            if box.reader.status == "RUNNING":
                end_abandoned(path)
                box.pull()
        waiting = [box for box in self.boxes.values() if box.waiting]
        # Older first, so that a run is there before the runs that read its files.
        return sorted(waiting, key=lambda box: box.waiting[0][1]["time"])

    def _closed(self) -> bool:
        return any(
            stage_of(path) == CLOSING_STAGE and box.reader.status == "FINISHED" for path, box in self.boxes.items()
        )

    def _give_up(self, waiting: list[Outbox], problem: str) -> None:
        self.problem, self._tracker, self._retry_at = problem, None, time.monotonic() + RETRY_SECONDS
        for box in waiting:
            if box.waiting:
                box.note(box.state.sent, problem)


@contextmanager
def duty(folder: Path) -> Iterator[int | None]:
    """The folder's lock, as an open file, or None if another forwarder has it."""
    with (folder / "forwarder.lock").open("ab") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while not (taken := locked(file.fileno(), fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield file.fileno() if taken else None


def follow(folder: Path, place: str, connect: Callable[[str], Tracker]) -> None:
    """Serves a folder in the background: returns at once, when the new process has the folder's lock."""
    with duty(folder) as lock:
        # The lock goes with the open file, which the child has too.
        if lock is None or os.fork():
            return
        os.setsid()
        os.nice(5)
        desk = Desk(folder, place, connect)
        while True:
            desk.follow()
            # A stage looks for the lock after it has written, so one of the two sees the other.
            fcntl.flock(lock, fcntl.LOCK_UN)
            if not desk.has_news() or not locked(lock, fcntl.LOCK_EX):
                return


def send(root: Path, place: str, connect: Callable[[str], Tracker]) -> int:
    """Sends what has not been sent, prints a line per pipeline run, and returns how many could not be."""
    failed = 0
    for folder in folders(root):
        if all(map(is_sent, journals(folder))):
            continue
        with duty(folder) as lock:
            desk = Desk(folder, place, connect)
            if lock is not None:
                desk.turn()
        if lock is None:
            print(f"{folder.name}: being sent by another process")
        elif desk.problem:
            failed += 1
            print(f"{folder.name}: {desk.problem}")
        else:
            problems = sorted({box.state.problem for box in desk.boxes.values()} - {""})
            print(f"{folder.name}: sent to {place}", *problems, sep="; ")
    return failed


def status(root: Path) -> None:
    """Prints a line per journal: pipeline run, stage, status, how much is sent, and what is in the way."""
    for path in (path for folder in folders(root) for path in journals(folder)):
        reader, state = Reader(path), Sent.of(path)
        reader.new()
        share = "sent" if is_sent(path) else f"{state.sent} of {reader.lines} records sent"
        print(path.parent.name, path.stem, reader.status, share, state.problem, sep="  ")


def add_commands(commands: Any, place: str, connect: Callable[[str], Tracker]) -> None:
    """Adds `follow FOLDER`, `send` and `status` to a command line; `run` is what each does, to an exit code."""

    def done(_nothing: None) -> int:
        return 0

    parser = commands.add_parser("follow", help="forward a pipeline run's records while they are written")
    parser.add_argument("folder", type=Path)
    parser.set_defaults(run=lambda given: done(follow(given.folder, place, connect)))
    parser = commands.add_parser("send", help="send what has not been sent")
    parser.add_argument("--root", type=Path, default=".temper")
    parser.set_defaults(run=lambda given: 1 if send(given.root, place, connect) else 0)
    parser = commands.add_parser("status", help="say what has not been sent")
    parser.add_argument("--root", type=Path, default=".temper")
    parser.set_defaults(run=lambda given: done(status(given.root)))


def folders(root: Path) -> list[Path]:
    """The folders of the pipeline runs, older first."""
    found = [folder for folder in (root / "journals").glob("*") if journals(folder)]
    return sorted(found, key=lambda folder: min(path.stat().st_mtime for path in journals(folder)))


def require_reachable(uri: str) -> None:
    """Looks in two seconds whether a server answers at an http(s) address. Errors: Unreachable."""
    parts = urlsplit(uri)
    if parts.scheme not in PORTS or not parts.hostname:
        return
    # A proxy hides the server from this look.
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
        return
    try:
        socket.create_connection((parts.hostname, parts.port or PORTS[parts.scheme]), CONNECT_SECONDS).close()
    except OSError as error:
        raise Unreachable(f"no answer from {uri} ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """An exception's text in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _points(event: Event) -> set[tuple[str, int | None]]:
    return {(key, event["step"]) for key in event.get("metrics", ())}
