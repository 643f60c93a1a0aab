"""Shows a report, or what changed between two, or writes the per-image outcomes behind one.

python -m components.commands.report reports/robustness.json          prints verdict and table, and where the page is
python -m components.commands.report diff old.json new.json           prints what changed
python -m components.commands.report evaluation --outcomes out.csv    writes a row per model, attack and image
"""

import argparse
import sys
from pathlib import Path

from components.foundation.errors import InputError
from components.reports.outcome_table import write_outcome_table
from components.reports.robustness import changes as diff
from components.reports.robustness.contents import Report
from components.reports.robustness.table import markdown_table, text_table
from components.statistics.documents import read_document


def main(arguments: list[str] | None = None) -> None:
    """Prints what is asked for, aligned or as Markdown; ends with one line where a document is not one of ours."""
    given = sys.argv[1:] if arguments is None else arguments
    both = given[:1] == ["diff"]
    parser = argparse.ArgumentParser(
        prog="python -m components.commands.report" + (" diff" if both else ""),
        description=None if both else __doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("old", "new") if both else ("document",):
        parser.add_argument(name, type=Path, help="a reports/robustness.json")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    if not both:
        parser.add_argument("--outcomes", type=Path, metavar="FILE", help="write outcomes as a .csv or .parquet table")
    options = parser.parse_args(given[1:] if both else given)
    try:
        if both:
            print(changes(options.old, options.new, options.markdown))
        elif options.outcomes:
            print(outcomes(options.document, options.outcomes))
        else:
            print(summary(options.document, options.markdown))
    except InputError as error:
        sys.exit(f"error: {error}")


def summary(path: Path, markdown: bool = False) -> str:
    """The table of the document at `path`, and where its page is. Errors: missing, broken or foreign document."""
    document, page = read_document(Report, path), path.with_suffix(".html")
    return (
        f"{markdown_table(document)}\n\nReport: `{page}`" if markdown else f"{text_table(document)}\n\nReport: {page}"
    )


def outcomes(source: Path, out: Path) -> str:
    """Writes the outcomes behind a report, or in a folder, as a table; a line that says so. Errors: no evaluation."""
    places = (source, source / "evaluation", source.parent, source.parent.parent / "evaluation")
    folder = next((place for place in places if (place / "evaluation.json").exists()), None)
    if folder is None:
        raise InputError(f"{source}: no evaluation.json there, want a report or the folder of an evaluation")
    return f"written: {out} ({write_outcome_table(folder, out)} rows)"


def changes(old: Path, new: Path, markdown: bool = False) -> str:
    """What changed from the document at `old` to that at `new`. Errors: missing, broken or foreign documents."""
    return diff.text(
        diff.differences(read_document(Report, old), read_document(Report, new)), (str(old), str(new)), markdown
    )


if __name__ == "__main__":
    main()
