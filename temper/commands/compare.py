"""`temper compare`: is B more robust than A?"""

import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from components.foundation.lines import say
from temper.commands.shared import Markdown

EVALUATION = "evaluation.json"
SIDE = "A folder with its evaluation.json, an MLflow run id, models:/NAME/VERSION or models:/NAME@ALIAS."


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=SIDE)],
    b: Annotated[str, typer.Argument(metavar="B", help=SIDE)],
    model_a: Annotated[str | None, typer.Option(metavar="NAME", help="The model in A. By default the student.")] = None,
    model_b: Annotated[str | None, typer.Option(metavar="NAME", help="The model in B. By default the student.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the comparison there, too.")] = None,
    markdown: Markdown = False,
) -> None:
    """Say whether B is more robust than A.

    By how much and how surely, on the same test images.
    """
    from components.reports.comparison import document, text
    from components.statistics.documents import write_document

    with tempfile.TemporaryDirectory() as scratch:
        sides = (_side(a, model_a, Path(scratch, "a")), _side(b, model_b, Path(scratch, "b")))
        compared = document.compare(*sides)
    if json:
        write_document(json, compared)
    say(text.markdown(compared) if markdown else text.text(compared))


def _side(reference: str, model: str | None, scratch: Path) -> Any:
    """One side: a folder, or what the tracker knows, fetched into `scratch`; of it one model, by default the student.

    Errors: no such folder, run or version, one without an evaluation.
    """
    from components.foundation.errors import InputError
    from components.reports.comparison.document import load
    from components.tracking.mlflow_client import asked
    from components.tracking.registry import fetch, resolve

    path = Path(reference)
    if path.name == EVALUATION and path.is_file():
        path = path.parent
    if reference and path.is_dir():
        return load(path, model)
    if not re.match(r"models:/|runs:/|[0-9a-f]{32}$", reference):
        raise InputError(f"{reference}: no folder with an {EVALUATION}, no run id, no models:/NAME/VERSION or @ALIAS")

    def fetched(client: object) -> tuple[str, str | None]:
        source = resolve(client, reference)
        return source.title, fetch(client, source, scratch)

    title, own = asked(fetched)
    # The model that was named wins over what a version's hash says.
    return load(scratch, model or own, title)
