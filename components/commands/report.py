"""Shows a report, or what changed between two, as `temper report` does.

Flows ask for the table by `python -m components.commands.report FILE [--markdown]`.
"""

import sys
from pathlib import Path

from components.foundation.errors import InputError
from components.foundation.storage import read_json
from components.reports.robustness import changes as diff
from components.reports.robustness.document import SCHEMA
from components.reports.wording import markdown_table, text_table
from components.statistics.outcomes import Document


def summary(path: Path, markdown: bool = False) -> str:
    """The table of the document at `path`, and where its page is. Errors: missing, broken or foreign document."""
    document, page = read(path), path.with_suffix(".html")
    return (
        f"{markdown_table(document)}\n\nReport: `{page}`" if markdown else f"{text_table(document)}\n\nReport: {page}"
    )


def changes(old: Path, new: Path, markdown: bool = False) -> str:
    """What changed from the document at `old` to that at `new`. Errors: missing, broken or foreign documents."""
    return diff.text(diff.differences(read(old), read(new)), (str(old), str(new)), markdown)


def read(path: Path) -> Document:
    """The robustness document at `path`. Errors: missing, broken, of another schema."""
    document = read_json(path)
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        raise InputError(f"{path}: schema {found!r}, want {SCHEMA!r}")
    return document


if __name__ == "__main__":
    try:
        print(summary(Path(sys.argv[1]), "--markdown" in sys.argv[2:]))
    except InputError as error:
        sys.exit(f"error: {error}")
