"""`temper compare`: is B more robust than A?"""

from pathlib import Path
from typing import Annotated

import typer

from temper.commands.shared import Markdown

SIDE = "A folder, an MLflow run id, models:/NAME/VERSION or models:/NAME@ALIAS."


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
    from components.commands.compare import Reference
    from components.commands.compare import compare as compared

    print(compared(Reference(a, model_a), Reference(b, model_b), json, markdown))
