"""`temper init`: a recipe for images of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from components.foundation.errors import InputError
from components.foundation.lines import one_line, say


def init(
    images: Annotated[
        Path, typer.Option(metavar="DIR", help="Images in DIR/CLASS, or in DIR/train/CLASS and DIR/test/CLASS.")
    ],
    epsilon: Annotated[
        str | None, typer.Option(metavar="E", help="How far an attack may change a pixel, such as 8/255.")
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="A mirrored image belongs to the same class: train on those too.")
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(metavar="N", min=8, help="Height and width. By default that of the images, at most 32."),
    ] = None,
    title: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What reports call the data. By default the folder's name.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(metavar="M", min=1, help="Choose model, epochs and limits so that a run takes about that.")
    ] = 15,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The recipe.")] = Path("params.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that holds changes of yours.")] = False,
) -> None:
    """Write a recipe for your own images.

    It looks at the folder, measures for some seconds how fast this machine is, and writes a complete params.yaml that
    needs no change. The file says why each choice was made.

    A params.yaml with changes that are neither in presets/ nor in the last commit is kept, unless --force is given.
    """
    if not images.is_dir():
        raise InputError(f"--images: {one_line(images)}: no such folder")
    from temper.recipe import Wanted, write

    told = Wanted(images=images, epsilon=epsilon, flip=flip, size=size, title=title, minutes=minutes)
    for line in write(told, out, force, Path.cwd()):
        say(line)
