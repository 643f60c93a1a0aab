"""Options that several subcommands have."""

from typing import Annotated

import typer

Preset = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="Replace params.yaml by the recipe NAME of presets/ first."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one key of params.yaml. Repeatable.")
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]
