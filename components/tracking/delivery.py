"""Brings the records of journals to a tracker: in order, once, later if need be. Knows no tracker (`mlflow_runs` does).

A tracker is whatever takes records. What it has taken is noted after each step (`Sent`), so that a forwarder that dies
is continued by the next one. What the tracker refuses is reported and skipped. When it cannot be reached the records
stay, and the reason is noted for the stage to say. One forwarder at a time serves the folder of a pipeline run.
"""

import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from components.foundation.lines import one_line, say, shown
from components.foundation.storage import locked
from components.tracking.journal_files import Reader, Sent, end_abandoned, is_sent, journals, open_pipeline
from components.tracking.pages import told

Event = Mapping[str, Any]

POLL_SECONDS = 0.2
RETRY_SECONDS = 15
CONNECT_SECONDS = 2
LONGEST = 200
# For `temper records status`, and to continue a stage of a run that was thought to have ended.
KEPT_SENT = 20
PORTS = {"http": 80, "https": 443}


class Unreachable(Exception):
    """The tracker cannot take records now: why, in one line."""


class Refused(Exception):
    """The tracker does not take this record, now or later: why, in one line."""


class Outbox:
    """A journal's records on their way: what is waiting, which metrics are sent, of which experiment."""

    def __init__(self, path: Path, place: str) -> None:
        self.path, self.reader, self.state = path, Reader(path), Sent.of(path)
        if self.state.tracker != shown(place) and not is_sent(path):
            self.state = Sent(tracker=shown(place))
        self.waiting: list[tuple[int, Event]] = []
        self.notes: list[str] = []
        self.experiment = ""
        self._refused = ""
        self._seen: set[tuple[str, int | None]] = set()

    def pull(self) -> bool:
        """Reads what the journal has gained; true if anything is to be sent."""
        for number, event in self.reader.new():
            if event["event"] == "note":
                self.notes.append(event["text"])
            self.experiment = event.get("experiment", self.experiment)
            if number > self.state.sent:
                self.waiting.append((number, event))
            else:
                self._seen.update(_points(event))
        return bool(self.waiting)

    def push(self, tracker: "Tracker") -> None:
        """Sends what is waiting; what has succeeded stays so. Errors: Unreachable."""
        while self.waiting:
            # All metrics in a row go as one batch, anything else alone.
            count = len(list(takewhile(lambda one: one[1]["event"] == "metrics", self.waiting))) or 1
            events = [event for _, event in self.waiting[:count]]
            try:
                tracker.send(self, [self._unseen(event) for event in events])
            except Refused as error:
                self._refused = f"MLflow refused a record: {error}"
                say(f"{self.path} {self._refused} {events}", to=sys.stderr)
            for event in events:
                self._seen.update(_points(event))
            self.note(self.waiting[count - 1][0], self._refused)
            for kept in (kept for event in events for kept in event.get("kept", ())):
                shutil.rmtree((self.path.parent / kept).parent, ignore_errors=True)
            del self.waiting[:count]

    def note(self, sent: int, problem: str) -> None:
        """Notes beside the journal how far it is sent and what is in the way."""
        self.state.sent, self.state.problem = sent, shown(problem)
        self.state.save(self.path)

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


class Forwarder:
    """Forwards the journals of one pipeline run. Whoever has one holds the folder's lock (`lock_folder`)."""

    def __init__(self, folder: Path, place: str, connect: Callable[[str], Tracker]) -> None:
        self.folder, self.place, self.connect = folder, place, connect
        self.boxes: dict[Path, Outbox] = {}
        self.problem = ""
        """Why the tracker could not be reached the last time, or nothing."""
        self._tracker: Tracker | None = None
        self._retry_at = 0.0

    def send_pending(self) -> None:
        """Sends everything there is now, or notes the `problem`."""
        waiting = self._pull()
        try:
            for box in waiting:
                self._tracker = self._tracker or self.connect(self.place)
                box.push(self._tracker)
            self.problem = ""
        except Unreachable as error:
            self.problem, self._tracker, self._retry_at = str(error), None, time.monotonic() + RETRY_SECONDS
            for box in waiting:
                if box.waiting:
                    box.note(box.state.sent, self.problem)

    def send_live(self) -> None:
        """Like `send_pending`, but leaves a tracker that could not be reached alone for a while."""
        if time.monotonic() >= self._retry_at:
            self.send_pending()

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


def lock_folder(folder: Path) -> BinaryIO | None:
    """The folder's lock as an open file, held until that is closed; None if another process forwards the folder."""
    file = (folder / "forwarder.lock").open("ab")
    if locked(file.fileno()):
        return file
    file.close()
    return None


def forward(
    root: Path, own: Sequence[Path], place: str, connect: Callable[[str], Tracker], finish: threading.Event
) -> bool:
    """Sends the records of pipeline runs while they are written, until `finish` is set, and then the rest.

    Until `finish` is set also what earlier runs below `root` have left, once. Returns whether all of the `own` folders
    could be sent. One that another process forwards is waited for; the caller limits the time.
    """
    served: dict[Path, Forwarder] = {}
    left = (folder for folder in folders(root) if folder not in own and _is_left(folder, place))
    with ExitStack() as locks:
        while True:
            # Asked before reading, so that the last turn reads all that was written before the request.
            ending = finish.is_set()
            for folder in own:
                if folder not in served and journals(folder) and (lock := lock_folder(folder)):
                    locks.enter_context(lock)
                    served[folder] = Forwarder(folder, place, connect)
            for forwarder in served.values():
                forwarder.send_pending() if ending else forwarder.send_live()
            problem = any(forwarder.problem for forwarder in served.values())
            if not (problem or finish.is_set()) and (earlier := next(left, None)):
                send(earlier, place, connect)
            elif ending and all(folder in served or not journals(folder) for folder in own):
                break
            time.sleep(POLL_SECONDS) if ending else finish.wait(POLL_SECONDS)
    forget_old(root)
    return not problem


def send(folder: Path, place: str, connect: Callable[[str], Tracker]) -> Forwarder | None:
    """Sends what there is of a pipeline run, and says how it went. None if another process forwards it."""
    if (lock := lock_folder(folder)) is None:
        return None
    with lock:
        forwarder = Forwarder(folder, place, connect)
        forwarder.send_pending()
    forget_old(folder.parent.parent)
    return forwarder


def forget_old(root: Path) -> None:
    """Removes the journals of pipeline runs that are sent and ended, but for the latest ones."""
    ended = [folder for folder in folders(root) if _all_sent(folder) and folder.name != open_pipeline(root)]
    for folder in ended[:-KEPT_SENT]:
        # Whoever holds the lock may be about to write there.
        if lock := lock_folder(folder):
            with lock:
                shutil.rmtree(folder, ignore_errors=True)


def unsent(root: Path) -> list[Path]:
    """The folders of pipeline runs of which not all is sent, older first."""
    return [folder for folder in folders(root) if not _all_sent(folder)]


def folders(root: Path) -> list[Path]:
    """The folders of the pipeline runs, older first."""
    found = [folder for folder in (root / "journals").glob("*") if journals(folder)]
    return sorted(found, key=lambda folder: min(path.stat().st_mtime for path in journals(folder)))


def where_to_look(folder: Path) -> list[str]:
    """The tracker's pages of a pipeline run, in lines for a person; none where nothing is sent yet."""
    states = [state for path in journals(folder) if (state := Sent.of(path)).pages]
    found = {name: page for state in states for name, page in state.pages.items()}
    return told(states[-1].tracker, found) if states else []


def require_reachable(uri: str) -> None:
    """Looks in two seconds whether a server answers at an http(s) address. Errors: Unreachable."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        # What urllib says of it may be a part of a password.
        raise Unreachable(f"MLFLOW_TRACKING_URI: got {shown(uri)!r}, no address of a server") from None
    if parts.scheme not in PORTS or not parts.hostname:
        return
    # A proxy hides the server from this look.
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
        return
    try:
        socket.create_connection((parts.hostname, port or PORTS[parts.scheme]), CONNECT_SECONDS).close()
    except OSError as error:
        raise Unreachable(f"no answer from {shown(uri)} ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """The first line of an exception's text, up to the end of a word."""
    text = one_line((str(error).strip() or type(error).__name__).splitlines()[0])
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rpartition(' ')[0] or text[:LONGEST]} …"


def _all_sent(folder: Path) -> bool:
    return all(map(is_sent, journals(folder)))


def _is_left(folder: Path, place: str) -> bool:
    """Whether sending a pipeline run to this tracker was begun, and not ended."""
    return any(Sent.of(path).tracker == shown(place) for path in journals(folder)) and not _all_sent(folder)


def _points(event: Event) -> set[tuple[str, int | None]]:
    return {(key, event["step"]) for key in event.get("metrics", ())}
