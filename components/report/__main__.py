"""Prints the table of a report and where its page is: `python -m components.report reports/robustness.json`."""

import argparse
import sys
from pathlib import Path

from components.errors import InputError
from components.report.document import SCHEMA
from components.report.tables import markdown_table, text_table
from components.storage import read_json


def main(arguments: list[str] | None = None) -> None:
    """Prints the table, aligned or as Markdown, and the path of the page beside the document."""
    parser = argparse.ArgumentParser(prog="python -m components.report", description=__doc__)
    parser.add_argument("document", type=Path, help="reports/robustness.json")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    options = parser.parse_args(arguments)
    try:
        print(summary(options.document, options.markdown))
    except InputError as error:
        sys.exit(f"error: {error}")


def summary(path: Path, markdown: bool = False) -> str:
    """The table of the document at `path`, and where its page is. Errors: missing, broken or foreign document."""
    document = read_json(path)
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        raise InputError(f"{path}: schema {found!r}, want {SCHEMA!r}")
    page = path.with_suffix(".html")
    return (
        f"{markdown_table(document)}\n\nReport: `{page}`" if markdown else f"{text_table(document)}\n\nReport: {page}"
    )


if __name__ == "__main__":
    main()
