"""`temper report`: shows a report, or what changed between two."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from components.foundation.lines import say
from temper.commands.shared import Markdown

REPORT = Path("reports/robustness.json")


class ShowsByDefault(TyperGroup):
    """A group in which `show` need not be typed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args[:1] and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["show", *args])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Also what `show` takes, since it need not be typed."""
        super().format_options(ctx, formatter)
        records = [param.get_help_record(ctx) for param in self.commands["show"].params]
        with formatter.section("Of show, which need not be typed"):
            formatter.write_dl([record for record in records if record])


app = typer.Typer(rich_markup_mode=None, cls=ShowsByDefault, help="Show a report, or what changed between two.")


@app.command()
def show(
    document: Annotated[Path, typer.Argument(metavar="FILE", help="A robustness.json.")] = REPORT,
    markdown: Markdown = False,
    outcomes: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write the outcome of every image there, .csv or .parquet.")
    ] = None,
) -> None:
    """Show the decision and the table of a report.

    Also where its page is. With `--outcomes`, a row for each model, attack and image is written instead; FILE may then
    be the folder of an evaluation. `show` need not be typed.
    """
    from components.foundation.checkout import require_project
    from components.reports.robustness.contents import Report
    from components.reports.robustness.dated import page_to_show
    from components.reports.robustness.table import markdown_table, text_table
    from components.statistics.documents import read_document

    if outcomes is not None:
        # Only here, since it needs torch.
        from components.reports.outcome_table import write_outcome_table

        say(f"written: {outcomes} ({write_outcome_table(evaluation_beside(document), outcomes)} rows)")
        return
    path = document / "robustness.json" if document.is_dir() else document
    if path == REPORT and not path.exists():
        require_project(Path.cwd(), str(path))
    shown, page = read_document(Report, path), page_to_show(path.with_suffix(".html"))
    table, place = (markdown_table(shown), f"`{page}`") if markdown else (text_table(shown), page)
    say(f"{table}\n\nReport: {place}")


@app.command(hidden=True)
def told(document: Annotated[Path, typer.Argument(metavar="FILE", help="A robustness.json.")]) -> None:
    """Print what the page of a run says of a report, as JSON: its title, tags, and text in Markdown."""
    import json

    from components.reports.robustness.brief import run_tags, run_text, run_title
    from components.reports.robustness.contents import Report
    from components.reports.robustness.dated import page_to_show
    from components.statistics.documents import read_document

    shown, page = read_document(Report, document), page_to_show(document.with_suffix(".html"))
    answer = [shown.decision.answer] if shown.decision else []
    tags = [*answer, *(value for key, value in run_tags(shown).items() if key in ("dataset", "method"))]
    text = f"{run_text(shown)}\n\nReport: `{page}`"
    print(json.dumps({"title": run_title(shown), "tags": tags, "markdown": text}))


def evaluation_beside(report: Path) -> Path:
    """The folder of the evaluation behind a report, or in a folder. Error: none there."""
    from components.foundation.errors import InputError

    places = (report, report / "evaluation", report.parent, report.parent.parent / "evaluation")
    folder = next((place for place in places if (place / "evaluation.json").exists()), None)
    if folder is None:
        raise InputError(f"{report}: no evaluation.json there, want a report or the folder of an evaluation")
    return folder


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A robustness.json.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A robustness.json.")],
    markdown: Markdown = False,
) -> None:
    """Show what changed from the report OLD to the report NEW."""
    from components.reports.robustness import changes
    from components.reports.robustness.contents import Report
    from components.statistics.documents import read_document

    before, after = read_document(Report, old), read_document(Report, new)
    say(changes.text(changes.differences(before, after), (str(old), str(new)), markdown))
