"""`temper records`: what the tracker still has to get. Hidden commands are for processes of our own."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from components.foundation.lines import say

WORK = Path(".temper")
app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Send the records of stages to MLflow, or say what is unsent."
)
Root = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder with the journals.")]


def _require_project(root: Path) -> None:
    """Error: the folder is the default one and not there, since this is no project's root."""
    from components.foundation.checkout import require_project

    if root == WORK and not root.exists():
        require_project(Path.cwd(), str(root))


@app.command()
def send(root: Root = WORK) -> None:
    """Send what has not been sent. Exit status: 1 when something could not be sent."""
    _require_project(root)
    from components.tracking import delivery
    from components.tracking.mlflow_client import place
    from components.tracking.mlflow_runs import connect

    failed, waiting, shown = False, delivery.unsent(root), list[str]()
    if not waiting:
        say("all records are sent")
    for folder in waiting:
        forwarder = delivery.send(folder, place(), connect)
        if forwarder is None:
            say(f"{folder.name}: being sent by another process")
        elif forwarder.problem:
            failed = True
            say(f"{folder.name}: {forwarder.problem}")
        else:
            problems = sorted({box.state.problem for box in forwarder.boxes.values()} - {""})
            say("; ".join([f"{folder.name}: sent to {place()}", *problems]))
            shown = delivery.where_to_look(folder) or shown
    if shown:
        say("\n".join(shown))
    raise typer.Exit(failed)


@app.command()
def pages(
    pipeline: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run of the pipeline; the latest that was sent by default.")
    ] = None,
    root: Root = WORK,
) -> None:
    """Say where MLflow shows a run: the list of all runs, the run's page, its report."""
    from components.tracking.delivery import folders, where_to_look
    from components.tracking.journal_files import folder_of

    _require_project(root)
    sent = [folder_of(root, pipeline)] if pipeline else [*reversed(folders(root))]
    lines = next((lines for folder in sent if (lines := where_to_look(folder))), ["nothing is sent to MLflow yet"])
    say("\n".join(lines))


@app.command()
def status(root: Root = WORK) -> None:
    """Say what has not been sent, and why.

    A line per journal: the run, the stage, its status, how much is sent, and what is in the way.
    """
    from components.tracking.delivery import folders, unsent
    from components.tracking.journal_files import Reader, Sent, is_sent, journals

    _require_project(root)
    if not unsent(root):
        say("all records are sent")
    for path in (path for folder in folders(root) for path in journals(folder)):
        reader, state = Reader.to_end(path), Sent.of(path)
        share = "sent" if is_sent(path) else f"{state.sent} of {reader.lines} records sent"
        say("  ".join((path.parent.name, path.stem, reader.status, share, state.problem)))


@app.command(hidden=True)
def forward(
    pipelines: Annotated[list[str], typer.Argument(metavar="PIPELINE", help="Runs of a pipeline.")],
    root: Root = WORK,
) -> None:
    """Send records while they are written, until the process that started this one says to finish, and the rest then.

    Exit status: 1 when something could not be sent.
    """
    from components.foundation.child import finish_requested
    from components.tracking import delivery
    from components.tracking.journal_files import folder_of
    from components.tracking.mlflow_client import place
    from components.tracking.mlflow_runs import connect

    own = [folder_of(root, pipeline) for pipeline in pipelines]
    logged = partial(connect, trace=True)
    raise typer.Exit(0 if delivery.forward(root, own, place(), logged, finish_requested()) else 1)


@app.command("fetch-model", hidden=True)
def fetch_model(
    uri: Annotated[str, typer.Argument(metavar="URI", help="models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/PATH.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where its file goes.")],
) -> None:
    """Fetch the file of a model, and print its name."""
    from components.tracking import download, mlflow_client

    say(mlflow_client.asked(lambda _client: download.fetch_model(uri, folder, mlflow_client.download)))
