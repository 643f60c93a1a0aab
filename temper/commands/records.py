"""`temper records`: what the tracker still has to get."""

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
