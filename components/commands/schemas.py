"""Writes the JSON Schemas of all documents: `python -m components.commands.schemas docs/schemas`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from components.evaluation.document import Evaluation
from components.foundation.process import as_process
from components.foundation.storage import write_json
from components.reports.comparison.contents import Comparison
from components.reports.robustness.contents import Report
from components.reports.study.contents import Study
from components.statistics.documents import Document, json_schema

DOCUMENTS: dict[str, type[Document]] = {
    "evaluation": Evaluation,
    "robustness": Report,
    "comparison": Comparison,
    "study": Study,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes NAME.schema.json of every document into FOLDER."""
    parser = argparse.ArgumentParser(prog="python -m components.commands.schemas", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args(arguments).folder
    for name, kind in DOCUMENTS.items():
        write_json(folder / f"{name}.schema.json", json_schema(kind))


if __name__ == "__main__":
    with as_process("schemas"):
        main()
