"""`temper evaluate`: attacks models that a team already has."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def evaluate(
    model: Annotated[
        list[str], typer.Option(metavar="NAME=REF", help="A model: a file, models:/... or runs:/.... Repeatable.")
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA", help="A data file, a data set's name, or {name: ..., ...}. Its test split is attacked."
        ),
    ],
    threat: Annotated[
        list[str] | None,
        typer.Option(metavar="NORM:EPSILON", help="Such as linf:8/255. Further ones are radii of the cascade."),
    ] = None,
    params: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Attacks, threat and seed from a file in the form of params.yaml."),
    ] = None,
    cascade: Annotated[
        Literal["quick", "autoattack", "none"] | None, typer.Option(help="Attacks in a row. By default quick.")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Of the search. float32 decides, and is the default.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(metavar="N", help="Attack N images, classes as frequent as in all. By default all.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="B", help="By default 500.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="By default 0.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where results and the journal go. By default evaluation/outside."),
    ] = None,
    adversarial: Annotated[
        Literal["uint8", "float32"] | None,
        typer.Option(help="How adversarial images are kept. By default as the images are."),
    ] = None,
    architecture: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]{...}", help="Of a state dict, as in params.yaml.")
    ] = None,
    normalization: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]MEAN:STD", help="Of a state dict, or identity.")
    ] = None,
    criteria: Annotated[
        str | None,
        typer.Option(metavar="{...}", help="What a model must reach, as in params.yaml, such as {worst_case: 0.4}."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="This is process I of N that share the work, from 0.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="By default auto.")] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Of the CPU. By default the fastest now.")] = None,
    track: Annotated[bool, typer.Option("--track", help="Record the result in MLflow, too.")] = False,
) -> None:
    """Attack models that you already have.

    The result is a table, a verdict that says how far to believe it, and a report.

    Stopped at any time, the same command continues. A finished evaluation only replays its journal.
    """
    told = {name: value for name, value in locals().items() if value is not None}
    from components.commands.evaluate import run

    run(**told)
