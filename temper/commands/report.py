"""`temper report`: shows a report, or what changed between two."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from temper.commands.shared import Markdown


class ShowsByDefault(TyperGroup):
    """A group in which `show` need not be typed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args[:1] and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["show", *args])


app = typer.Typer(rich_markup_mode=None, cls=ShowsByDefault, help="Show a report, or what changed between two.")


@app.command()
def show(
    document: Annotated[Path, typer.Argument(metavar="FILE", help="A robustness.json.")] = Path(
        "reports/robustness.json"
    ),
    markdown: Markdown = False,
    outcomes: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write the outcome of every image there, .csv or .parquet.")
    ] = None,
) -> None:
    """Show the table and the verdict of a report.

    Also where its page is. With `--outcomes`, a row for each model, attack and image is written instead; FILE may then
    be the folder of an evaluation. `show` need not be typed.
    """
    from components.commands import report

    print(report.summary(document, markdown) if outcomes is None else report.outcomes(document, outcomes))


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A robustness.json.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A robustness.json.")],
    markdown: Markdown = False,
) -> None:
    """Show what changed from the report OLD to the report NEW."""
    from components.commands.report import changes

    print(changes(old, new, markdown))
