"""`temper study`: every arm with every seed, in one table and one figure."""

from pathlib import Path
from typing import Annotated

import typer


def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="A folder of studies/, or any with a study.yaml.")] = "",
    scale: Annotated[str, typer.Option(help="A size that study.yaml has.")] = "cpu",
    seed: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=0, max=2**32 - 1, help="Only this seed. Repeatable. By default study.yaml's."),
    ] = None,
    arm: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this arm. Repeatable. By default all.")
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="That many jobs at the same time.")] = 1,
    data: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Downloaded data sets, in torchvision's layout.")
    ] = None,
    work: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where jobs run. By default .temper/studies.")
    ] = None,
    stop_after: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, max=10**6, help="Stop what runs then. The same command continues."),
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=8760, help="Time limit for one attempt at one job.")] = 24,
    keep: Annotated[bool, typer.Option("--keep", help="Take what other versions of the code have finished.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Without Prefect, where there is one.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Print the jobs and whether they are finished.")] = False,
    collect: Annotated[bool, typer.Option("--collect", help="Make table and figure of what is finished.")] = False,
) -> None:
    """Run a study: every arm with every seed.

    All are evaluated, and it ends in one table and one figure.

    Finished jobs are not repeated and stopped ones continue, so the same command goes on where it was. Exit status: 0
    when all is done, 1 when a job failed, 2 for a mistake, 3 when there is more to do, 130 when
    interrupted.
    """
    from pipelines import study as runs
    from pipelines.studies.runner import WORK, prepared
    from pipelines.studies.runner import collect as made

    chosen = {"name": name, "scale": scale, "seeds": seed or [], "arms": arm or [], "data": data, "work": work or WORK}
    if list_ or collect:
        look = runs.list_jobs if list_ else made
        raise typer.Exit(look(*prepared(**chosen, checked=False, keep=keep)))
    how = {"jobs": jobs, "stop_after": stop_after, "hours": hours, "plain": plain, "keep": keep}
    raise typer.Exit(runs.run(**chosen, **how))


def table(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="What the study wrote about its runs.")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where table and figure go.")],
) -> None:
    """Make table and figure of a study, for a process of our own."""
    from components.commands.study import collect

    collect(plan, out)
