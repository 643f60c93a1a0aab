"""Is B more robust than A? For evaluations in folders and in MLflow, by run or by registered version."""

import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from components.foundation.errors import InputError
from components.reports.comparison import document, text
from components.statistics.documents import write_document
from components.tracking.mlflow_runs import asked
from components.tracking.registry import fetch, resolve


class Reference(NamedTuple):
    """One side of a comparison: a folder or what the tracker knows, and the model in it (the student by default)."""

    reference: str
    model: str | None = None


def compare(a: Reference, b: Reference, json: Path | None = None, markdown: bool = False) -> str:
    """The comparison as text or Markdown; with `json`, written there, too.

    Errors: no such folder, run or version, one without an evaluation, evaluations that cannot be compared.
    """
    with tempfile.TemporaryDirectory() as scratch:
        compared = document.compare(*(_side(side, Path(scratch, name)) for name, side in (("a", a), ("b", b))))
    if json:
        write_document(json, compared)
    return text.markdown(compared) if markdown else text.text(compared)


def _side(side: Reference, scratch: Path) -> document.Side:
    if Path(side.reference).is_dir():
        return document.load(side.reference, side.model)
    if not re.match(r"models:/|runs:/|[0-9a-f]{32}$", side.reference):
        raise InputError(f"{side.reference}: no such folder, and neither a run id nor models:/NAME/VERSION or @ALIAS")

    def fetched(client: object) -> tuple[str, str | None]:
        source = resolve(client, side.reference)
        return source.title, fetch(client, source, scratch)

    title, model = asked(fetched)
    # The model that was named wins over what a version's hash says.
    return document.load(scratch, side.model or model, title)
