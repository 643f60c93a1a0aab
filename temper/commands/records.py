"""`temper records`: what the tracker still has to get. Hidden commands are for processes of our own."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Send the records of stages to MLflow, or say what is unsent."
)
Root = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder with the journals.")]


@app.command()
def send(root: Root = Path(".temper")) -> None:
    """Send what has not been sent. Exit status: 1 when something could not be sent."""
    from components.tracking import delivery
    from components.tracking.mlflow_runs import connect, place

    raise typer.Exit(1 if delivery.send(root, place(), connect) else 0)


@app.command()
def status(root: Root = Path(".temper")) -> None:
    """Say what has not been sent."""
    from components.tracking import delivery

    delivery.status(root)


@app.command(hidden=True)
def forward(
    pipelines: Annotated[list[str], typer.Argument(metavar="PIPELINE", help="Runs of a pipeline.")],
    root: Root = Path(".temper"),
) -> None:
    """Send records while they are written, until the process that started this one says to finish, and the rest then.

    Exit status: 1 when something could not be sent.
    """
    from components.foundation.child import finish_requested
    from components.tracking import delivery
    from components.tracking.journal_files import folder_of
    from components.tracking.mlflow_runs import connect, place

    folders = [folder_of(root, pipeline) for pipeline in pipelines]
    raise typer.Exit(0 if delivery.forward(folders, place(), connect, finish_requested()) else 1)


@app.command("fetch-model", hidden=True)
def fetch_model(
    uri: Annotated[str, typer.Argument(metavar="URI", help="models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/PATH.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where its file goes.")],
) -> None:
    """Fetch the file of a model, and print its name."""
    from components.tracking import download, mlflow_runs
    from components.tracking.registry import answered

    def fetched(_client: object) -> str:
        return download.fetch_model(uri, folder, mlflow_runs.download)

    print(answered(fetched, mlflow_runs.place(), mlflow_runs.open_client))
