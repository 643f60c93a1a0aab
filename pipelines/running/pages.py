"""What a person reads first on the page of a flow run: its name, its tags, and the artifact with its results."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from functools import wraps
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple, ParamSpec, TypeVar
from uuid import UUID

from httpx import HTTPError
from prefect import get_client, get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.process import ask_temper
from pipelines.running.tasks import refused

Given = ParamSpec("Given")
Made = TypeVar("Made")
SEPARATOR = " \u00b7 "
# Three lines at the top of the page; the whole reason is in the state and in the artifact.
LONGEST_NAME = 240
# Between two lines of a stage that the artifact `progress` shows; each is a request to the server.
SECONDS_BETWEEN = 5


class Told(NamedTuple):
    """A report in the words of a page: the run's name, tags, and the text in Markdown."""

    title: str
    tags: list[str]
    markdown: str


def best_effort(request: Callable[Given, Made]) -> Callable[Given, Made | None]:
    """The request; where the server does not answer, or refuses, a warning and None: a run goes on without its page."""

    @wraps(request)
    def asked(*args: Given.args, **kwargs: Given.kwargs) -> Made | None:
        try:
            return request(*args, **kwargs)
        except HTTPError as error:
            said = one_line(error) or type(error).__name__
            get_run_logger().warning("this run's page lacks a part, its server gives: %s", said)
            return None

    return asked


class Progress:
    """The artifact `progress` of a flow run: how many stages are done, and what the one that runs said last.

    A thread of its own asks the server, which may be slow or away: whoever tells a line never waits for it.
    """

    def __init__(self, stages: int) -> None:
        self._stages, self._done, self._text = stages, 0, "stages done"
        self._news, self._ended = Event(), Event()
        # Requests and log lines belong to the flow run whose context the thread gets.
        context = copy_context()
        self._thread = Thread(target=context.run, args=(self._publish,), daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._news.set()
        self._thread.join(timeout=SECONDS_BETWEEN)

    def advance(self) -> None:
        """One more stage is done."""
        self._done += 1
        self.tell(f"{self._done} of {self._stages} stages done")

    def tell(self, line: str) -> None:
        """Shows a line, or a later one, soon."""
        self._text = line
        self._news.set()

    def _publish(self) -> None:
        made: Any = best_effort(create_progress_artifact)(progress=0.0, key="progress", description=self._text)
        while made is not None:
            self._news.wait()
            self._news.clear()
            over, share = self._ended.is_set(), 100.0 * self._done / self._stages
            best_effort(update_progress_artifact)(made, progress=share, description=self._text)
            if over or (self._ended.wait(SECONDS_BETWEEN) and not self._news.is_set()):
                return


@best_effort
def call(title: str, tags: Iterable[str] = ()) -> None:
    """Names the present flow run, in the list of runs and on its page, and gives it tags besides those it has."""
    short = title if len(title) <= LONGEST_NAME else f"{title[: LONGEST_NAME - 1]}\u2026"
    with get_client(sync_client=True) as client:
        # What the runtime says of them is from the start of the run.
        present = client.read_flow_run(UUID(str(flow_run.id))).tags
        every = list(dict.fromkeys([*present, *filter(None, tags)]))
        client.update_flow_run(UUID(str(flow_run.id)), name=short, tags=every)


def told(root: Path, document: Path) -> Told | None:
    """What a report says, or None where there is none or it cannot be rendered."""
    if not (root / document).exists():
        return None
    try:
        return Told(**json.loads(ask_temper("report", "told", str(document), root=root)))
    except InputError:
        return None


def tracked(root: Path, pipeline: str) -> dict[str, str]:
    """The tracker's pages of a pipeline run: name to address or, in the last one, how to see them; may be empty."""
    try:
        lines = ask_temper("records", "pages", pipeline, root=root).splitlines()
    except InputError:
        return {}
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name: address.strip() for name, address in found.items()}


@best_effort
def show(result: Told, pages: Mapping[str, str]) -> None:
    """Publishes results: the run's name and tags, an artifact with the table, and a link that a browser opens.

    Browsers do not follow a link from a page to a file. So there is one only where a tracker serves the report.
    """
    call(result.title, result.tags)
    lines = "\n".join(f"* {name}: {address}" for name, address in pages.items())
    create_markdown_artifact(f"{result.markdown}\n\n{lines}".rstrip(), key="results", description=result.title)
    served = not any(address.startswith("mlflow ui") for address in pages.values())
    if served and "Report" in pages:
        create_link_artifact(pages["Report"], key="report", link_text="robustness report")
    for name, address in pages.items():
        get_run_logger().info("%s: %s", name, address)


def refuse(begins: str, error: InputError) -> State[Any]:
    """The end of a flow that a user's mistake has kept from starting, said on its page."""
    state = refused(error)
    explain(begins, state)
    return state


@best_effort
def explain(begins: str, state: State[Any]) -> None:
    """Puts why a run did not complete into its name and into the artifact `results`."""
    said = f"{state.name}: {state.message}"
    call(f"{begins}{SEPARATOR}{said}" if begins else said, [str(state.name)])
    create_markdown_artifact(f"**{state.name}**\n\n{state.message}", key="results", description=said)
