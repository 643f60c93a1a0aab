"""`temper advise`: which of several teachers to learn from."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def advise(
    teacher: Annotated[
        list[str], typer.Argument(metavar="TEACHER...", help="Teachers: FILE or NAME=REF, also models:/... of MLflow.")
    ],
    student: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]REF",
            help="A network of the student's size. Further ones, as checkpoints, say which images are unlearnable.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="By default data/normalized.safetensors. Its validation split is used, never its test."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(metavar="N", help="Use N images, classes as frequent as in all. By default 500.")
    ] = None,
    threat: Annotated[
        str | None, typer.Option(metavar="NORM:EPSILON", help="Such as linf:8/255. By default that of params.yaml.")
    ] = None,
    confident: Annotated[
        float | None, typer.Option(metavar="P", help="Answers above this probability are confident. By default 0.5.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What teachers cost students, as benchmarks/teacher_advice.py found it."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="B", help="By default 250.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="By default 0.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write advice.json and the page advice.html there, too.")
    ] = None,
    architecture: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]{...}", help="Of a state dict, as in params.yaml.")
    ] = None,
    normalization: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]MEAN:STD", help="Of a state dict, or identity.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="By default auto.")] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Of the CPU. By default the fastest now.")] = None,
) -> None:
    """Say which of several teachers to learn from.

    Before a student is trained: how robust each teacher is, how often it is confidently wrong, and whether attacks
    transfer between it and the student. Measured on a few hundred validation images.
    """
    told = {name: value for name, value in locals().items() if value is not None}
    from components.commands.advise import run

    run(**told)
