"""`temper promote`: gives a registered model an alias."""

import re
from typing import Annotated

import typer

from components.foundation.lines import say

# As MLflow wants them.
ALIAS = r"(?!(?:latest|v\d+)$)[\w-]{1,255}"
BOUND = "the lower bound of its 95 % interval, from 0 to 1."


def promote(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="models:/NAME/VERSION or models:/NAME@ALIAS.")],
    alias: Annotated[str, typer.Option(help="The alias to give.")] = "champion",
    min_worst_case: Annotated[
        float | None, typer.Option(metavar="SHARE", help=f"Least accuracy under every attack: {BOUND}")
    ] = None,
    min_clean: Annotated[
        float | None, typer.Option(metavar="SHARE", help=f"Least accuracy without attack: {BOUND}")
    ] = None,
    min_weakest_class: Annotated[
        float | None, typer.Option(metavar="SHARE", help=f"The same of the class that fares worst: {BOUND}")
    ] = None,
    not_worse_than_champion: Annotated[
        bool,
        typer.Option(
            "--not-worse-than-champion",
            help="Refuse if significantly less robust, or less accurate, than who has the alias now.",
        ),
    ] = False,
    changed_criteria: Annotated[
        bool,
        typer.Option(
            "--changed-criteria",
            help="Judge by the criteria of the last report, where they were changed after the version was registered.",
        ),
    ] = False,
) -> None:
    """Give a registered model an alias, if its criteria are met.

    They are those of params.yaml (section criteria) that it was registered with. Options add to them; nothing
    overrides one. Criteria that were changed later count with --changed-criteria alone, which is noted.

    Exit status: 0 when promoted, 1 when a criterion is not met, 2 for a mistake.
    """
    from components.foundation.errors import InputError
    from components.foundation.params import short
    from components.tracking import promotion, registry
    from components.tracking.mlflow_client import asked

    floors = {"clean": min_clean, "worst-case": min_worst_case, "weakest-class": min_weakest_class}
    for name, share in floors.items():
        if share is not None and not 0 <= share <= 1:
            raise InputError(f"--min-{name}: got {share:g}, want a share from 0 to 1")
    if not re.fullmatch(ALIAS, alias, re.ASCII | re.IGNORECASE):
        raise InputError(f"--alias: got {short(alias)}, want letters, digits, '-' and '_', not latest nor a version")
    bar = promotion.Bar(alias, min_clean, min_worst_case, min_weakest_class, not_worse_than_champion, changed_criteria)

    def decided(client: object) -> tuple[str, list[str], list[str]]:
        source = registry.resolve(client, version)
        return source.title, *promotion.promote(client, source, bar)

    title, failed, passed = asked(decided)
    if failed:
        say(f"refused: {title} does not become {alias}: {'; '.join(failed)}")
    else:
        say(f"{title} is {alias}: {'; '.join(passed)}")
    raise typer.Exit(1 if failed else 0)
