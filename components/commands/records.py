"""What the tracker has: sends the records of stages, reads evaluations and models back, promotes.

`temper` calls the functions; `python -m components.commands.records COMMAND` is how our own processes do.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.foundation.child import finish_requested
from components.foundation.errors import InputError
from components.foundation.process import USER_ERROR, WORK
from components.tracking import delivery, mlflow_runs, registry
from components.tracking.download import fetch_model as fetch_model_file
from components.tracking.journal_files import folder_of
from components.tracking.registry import Bar, resolve

REFUSED = 1
"""The exit status of a promotion that a rule refuses."""
REFERENCE = "an MLflow run, models:/NAME/VERSION or models:/NAME@ALIAS"


def forward(pipelines: list[str], root: Path = WORK) -> int:
    """Sends the records of pipeline runs until this process's starter says to finish, and the rest then.

    Returns 0 when all is sent, 1 otherwise. For `foundation.child.Child`: the process ends with its starter.
    """
    folders = [folder_of(root, pipeline) for pipeline in pipelines]
    return 0 if delivery.forward(folders, mlflow_runs.place(), mlflow_runs.connect, finish_requested()) else 1


def send(root: Path = WORK) -> int:
    """Sends what has not been sent and prints a line per pipeline run; 0 when all could be, 1 otherwise."""
    return 1 if delivery.send(root, mlflow_runs.place(), mlflow_runs.connect) else 0


def status(root: Path = WORK) -> int:
    """Prints a line per journal: how much of it is sent, and what is in the way; 0."""
    delivery.status(root)
    return 0


def fetch(reference: str, folder: Path) -> int:
    """Copies the evaluation of a run or a registered model into a folder; prints its title and model as JSON; 0."""

    def fetched(client: Any) -> dict[str, Any]:
        source = resolve(client, reference)
        return {"title": source.title, "model": registry.fetch(client, source, folder)}

    print(json.dumps(_answered(fetched)))
    return 0


def promote(reference: str, bar: Bar) -> int:
    """Gives a registered version an alias if its evaluation passes; prints one line; 0, or 1 when a rule refuses."""

    def promoted(client: Any) -> tuple[str, list[str], list[str]]:
        source = resolve(client, reference)
        return source.title, *registry.promote(client, source, bar)

    title, failed, passed = _answered(promoted)
    if failed:
        print(f"refused: {title} does not become {bar.alias}: {'; '.join(failed)}")
        return REFUSED
    print(f"{title} is {bar.alias}: {'; '.join(passed)}")
    return 0


def fetch_model(uri: str, folder: Path) -> int:
    """Copies the file of a model into a folder and prints its name there; 0."""
    print(_answered(lambda client: fetch_model_file(uri, folder, mlflow_runs.download)))
    return 0


def share(text: str) -> float:
    """A share from 0 to 1, as a type of argparse's."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {text}, want a share from 0 to 1")
    return value


def _answered(question: Callable[[Any], Any]) -> Any:
    return registry.answered(question, mlflow_runs.place(), mlflow_runs.open_client)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m components.commands.records", description="Records in MLflow.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *positional: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        for argument in positional:
            command.add_argument(argument, metavar=argument.upper(), type=Path if argument == "folder" else str)
        return command

    command = add("forward", lambda given: forward(given.pipelines, given.root), "send records while they are written")
    command.add_argument("pipelines", metavar="PIPELINE", nargs="+")
    command.add_argument("--root", type=Path, default=WORK)
    command = add("send", lambda given: send(given.root), "send what has not been sent")
    command.add_argument("--root", type=Path, default=WORK)
    command = add("status", lambda given: status(given.root), "say what has not been sent")
    command.add_argument("--root", type=Path, default=WORK)
    text = f"fetch the evaluation of {REFERENCE}"
    add("fetch", lambda given: fetch(given.reference, given.folder), text, "reference", "folder")
    text = "fetch the file of a model: models:/NAME/VERSION, models:/NAME@ALIAS or runs:/ID/PATH"
    add("fetch-model", lambda given: fetch_model(given.uri, given.folder), text, "uri", "folder")
    command = add("promote", _promote, "give a registered model an alias, if rules allow it", "reference")
    command.add_argument("--alias", default="champion", help="default: champion")
    for name in ("clean", "worst-case"):
        text = "least lower bound of its 95 %% interval"
        command.add_argument(f"--min-{name}", type=share, metavar="SHARE", help=text)
    command.add_argument("--not-worse-than-champion", action="store_true", help="compare with who has the alias now")
    return parser


def _promote(given: argparse.Namespace) -> int:
    bar = Bar(given.alias, given.min_clean, given.min_worst_case, given.not_worse_than_champion)
    return promote(given.reference, bar)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for a user's mistake."""
    given = _parser().parse_args(arguments)
    try:
        return given.run(given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
