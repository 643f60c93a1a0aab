"""Shows a report, or what changed between two, or writes the per-image outcomes behind one, as `temper report` does."""

from pathlib import Path

from components.foundation.errors import InputError
from components.reports.outcome_table import write_outcome_table
from components.reports.robustness import changes as diff
from components.reports.robustness.contents import Report
from components.reports.robustness.table import markdown_table, text_table
from components.statistics.documents import read_document


def summary(path: Path, markdown: bool = False) -> str:
    """The table of the document at `path`, or in that folder, and where its page is.

    Errors: missing, broken or foreign document.
    """
    path = path / "robustness.json" if path.is_dir() else path
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
