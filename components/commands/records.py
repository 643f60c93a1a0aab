"""What our own processes ask of the tracker, as processes: `python -m components.commands.records COMMAND`.

People have `temper records` and `temper promote`.
"""

import argparse
import sys
from pathlib import Path

from components.foundation.child import finish_requested
from components.foundation.errors import InputError
from components.foundation.process import USER_ERROR, WORK
from components.tracking import delivery, mlflow_runs
from components.tracking.download import fetch_model as fetch_model_file
from components.tracking.journal_files import folder_of
from components.tracking.registry import answered


def forward(pipelines: list[str], root: Path = WORK) -> int:
    """Sends the records of pipeline runs until this process's starter says to finish, and the rest then.

    Returns 0 when all is sent, 1 otherwise. For `foundation.child.Child`: the process ends with its starter.
    """
    folders = [folder_of(root, pipeline) for pipeline in pipelines]
    return 0 if delivery.forward(folders, mlflow_runs.place(), mlflow_runs.connect, finish_requested()) else 1


def fetch_model(uri: str, folder: Path) -> int:
    """Copies the file of a model into a folder and prints its name there; 0."""

    def fetched(_client: object) -> str:
        return fetch_model_file(uri, folder, mlflow_runs.download)

    print(answered(fetched, mlflow_runs.place(), mlflow_runs.open_client))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m components.commands.records", description="Records in MLflow.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser("forward", help="send records while they are written")
    command.set_defaults(run=lambda given: forward(given.pipelines, given.root))
    command.add_argument("pipelines", metavar="PIPELINE", nargs="+")
    command.add_argument("--root", type=Path, default=WORK)
    text = "fetch the file of a model: models:/NAME/VERSION, models:/NAME@ALIAS or runs:/ID/PATH"
    command = commands.add_parser("fetch-model", help=text)
    command.set_defaults(run=lambda given: fetch_model(given.uri, given.folder))
    command.add_argument("uri", metavar="URI")
    command.add_argument("folder", metavar="FOLDER", type=Path)
    return parser


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
