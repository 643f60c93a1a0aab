"""`temper harden`: the whole pipeline as a Prefect flow."""

from typing import Annotated

import typer

from temper.commands.shared import Preset, Set


def harden(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="STAGE", help="Stages to run, with all upstream. All by default.")
    ] = None,
    preset: Preset = None,
    assignments: Set = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compute the stages again even where nothing changed.")
    ] = False,
    retries: Annotated[
        int, typer.Option(metavar="N", min=0, max=1000, help="How often a failed stage is tried again.")
    ] = 2,
    retry_delay: Annotated[float, typer.Option(metavar="SECONDS", min=0, max=86400, help="Wait before a retry.")] = 10,
    stage_hours: Annotated[
        float, typer.Option(metavar="HOURS", min=0.01, max=8760, help="Time limit for one try of one stage.")
    ] = 24,
) -> None:
    """Run what is stale, from data to report.

    dvc.yaml says what there is to run. The run is a Prefect flow and ends with the result table. Without
    PREFECT_API_URL, Prefect starts a temporary server for it. Exit status: 0 when every stage completed, 1 when one
    failed, 2 for a mistake, 130 when interrupted.
    """
    from pipelines.harden import run

    status = run(
        preset=preset,
        set=assignments or [],
        targets=targets or [],
        force=force,
        retries=retries,
        retry_delay_seconds=retry_delay,
        stage_hours=stage_hours,
    )
    raise typer.Exit(status)
