"""Writes the JSON Schemas of all documents: `python -m temper.documents docs/schemas`."""

from pathlib import Path

from components.deployment.contents import Export
from components.evaluation.document import Evaluation
from components.foundation.arguments import Arguments
from components.foundation.storage import write_json
from components.reports.advice.contents import Advice, Calibration
from components.reports.comparison.contents import Comparison
from components.reports.robustness.contents import Report
from components.reports.study.contents import Study
from components.statistics.documents import Document, json_schema

DOCUMENTS: dict[str, type[Document]] = {
    "evaluation": Evaluation,
    "robustness": Report,
    "comparison": Comparison,
    "study": Study,
    "advice": Advice,
    "advice-calibration": Calibration,
    "export": Export,
}


def write_schemas(folder: Path) -> None:
    """Writes NAME.schema.json of every document into the folder."""
    for name, kind in DOCUMENTS.items():
        write_json(folder / f"{name}.schema.json", json_schema(kind))


if __name__ == "__main__":
    parser = Arguments(prog="temper.documents", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    write_schemas(parser.parse_args().folder)
