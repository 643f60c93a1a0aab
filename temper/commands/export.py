"""`temper export`: a model as files for those who run it."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model file (.safetensors), models:/... or runs:/...")
    ],
    to: Annotated[
        Path, typer.Option(metavar="PATH", help="A folder, or a file ending in .safetensors, .pt2 or .onnx.")
    ],
    format: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT", help="What goes into the folder: safetensors, pt2, onnx. By default all. Repeatable."
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(metavar="DATA", help="A data file or a data set's name: the export is checked on its test split."),
    ] = "data/normalized.safetensors",
    threat: Annotated[
        str | None,
        typer.Option(
            metavar="NORM:EPSILON", help="What the attacks of the check may change. By default params.yaml's."
        ),
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="Check on N images.")] = 500,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the attacks.")] = 0,
    threads: Annotated[int, typer.Option(metavar="N", help="CPU threads, of the times too.")] = 1,
) -> None:
    """Write a model as files that run elsewhere.

    .pt2 needs torch alone, .onnx onnxruntime alone; .safetensors are the weights, for temper.load. Normalisation is
    inside. Pixels outside [0, 1] are refused; ONNX, which cannot refuse, answers NaN.

    Every file is checked: the same logits, and the same answers to images that were attacked. PATH.json says what was
    found, with hashes, size and time per image.

    Exit status: 0 when written, 1 when a check fails (no file is left), 2 for a mistake.
    """
    from components.commands.export import ExportOptions, run

    run(
        ExportOptions(
            model=model, to=to, format=format or (), data=data, threat=threat, images=images, seed=seed, threads=threads
        )
    )
