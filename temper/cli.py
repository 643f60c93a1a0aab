"""The command `temper`: its subcommands, and how a mistake ends. What a subcommand needs is imported when it runs."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import temper
from components.foundation.lines import say
from components.foundation.process import USER_ERROR, in_one_line, is_users
from temper.commands import (
    advise,
    compare,
    evaluate,
    export,
    harden,
    init,
    params,
    promote,
    records,
    report,
    study,
)

app = typer.Typer(
    name="temper",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(init.init)
app.command()(harden.harden)
app.command()(evaluate.evaluate)
app.command()(advise.advise)
app.command()(compare.compare)
app.command()(export.export)
app.command()(promote.promote)
app.command()(study.study)
app.command("study-table", hidden=True)(study.table)
app.add_typer(report.app, name="report")
app.add_typer(params.app, name="params")
app.add_typer(records.app, name="records")


def show_version(wanted: bool) -> None:
    if wanted:
        print(temper.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """From a labelled image set to a classifier that is accurate and adversarially robust, with the evidence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 2 for a user's mistake, which is one line on stderr."""
    command = typer.main.get_command(app)
    try:
        status = command.main(arguments, prog_name="temper", standalone_mode=False)
    except typer.Abort:
        return _refused("stopped")
    except typer.TyperException as error:
        return _usage(error)
    except Exception as error:
        if not is_users(error):
            raise
        return _refused(in_one_line(error))
    return status if isinstance(status, int) else 0


def _usage(error: typer.TyperException) -> int:
    message = error.format_message()
    if message.startswith("Usage: "):  # a group without a command
        print(message)
        return USER_ERROR
    where = getattr(getattr(error, "ctx", None), "command_path", "temper")
    return _refused(f"{' '.join(message.split())} (see {where} --help)")


def _refused(text: str) -> int:
    say(f"error: {text}", to=sys.stderr)
    return USER_ERROR
