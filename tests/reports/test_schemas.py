"""The JSON Schemas of the documents: current, complete, and kept by what is written."""

import re
from pathlib import Path
from typing import Any

import pytest

from components.foundation.storage import read_json
from components.reports.comparison.document import compare, load
from components.statistics.documents import as_json, document_of, json_schema
from temper.documents import DOCUMENTS, write_schemas
from tests.parts.evaluation_files import document, evaluation, run_stage, write_evaluation
from tests.parts.paired_evaluations import outcomes
from tests.parts.paired_evaluations import write_evaluation as write_paired

ROOT = Path(__file__).parents[2]
# Names of fields that say all there is to say, below the description of their part.
CLEAR = {"a", "b", "architecture", "attack", "backward", "checkpoint", "class", "count", "epoch", "forward", "high"}
CLEAR |= {"low", "mean", "model", "models", "n", "rule", "compiled", "rules", "action", "study", "question", "claim"}
CLEAR |= {"figure"}
STUDIES = sorted(ROOT.glob("studies/*/results/*.json"))


def validator(name: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema comes with the extra test")
    found = jsonschema.Draft202012Validator(read_json(ROOT / f"docs/schemas/{name}.schema.json"))
    found.check_schema(found.schema)
    return found


def test_the_files_are_those_that_the_command_writes(tmp_path: Path) -> None:
    write_schemas(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in (ROOT / "docs/schemas").iterdir()}
    assert written == kept, "run make pages"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_field_has_a_description(name: str) -> None:
    schema = json_schema(DOCUMENTS[name])
    for part in (schema, *schema["$defs"].values()):
        assert part.get("description", "").endswith("."), part["title"]
        for key, field in part["properties"].items():
            # A field that says the same as the part it holds says it there.
            of_part = [schema["$defs"][where]["description"] for where in re.findall(r"#/\$defs/(\w+)", str(field))]
            told = field.get("description") or (of_part[0] if of_part else "")
            assert told.endswith(".") or (key in CLEAR and not told), f"{part['title']}.{key}"
        assert part["additionalProperties"] is False, part["title"]


def test_the_report_keeps_its_schema(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    run_stage(tmp_path)
    found = validator("robustness")
    found.validate(read_json(tmp_path / "reports/robustness.json"))
    whole = as_json(document(roles=["student"]))
    found.validate(whole)
    for wrong in ({"surprise": 1}, {"verdict": {"student": {"status": "fine"}}}, {"classes": None}):
        assert not found.is_valid(whole | wrong)


def test_the_evaluation_keeps_its_schema() -> None:
    whole = evaluation(60)
    assert as_json(document_of(DOCUMENTS["evaluation"], whole, "made up")) == whole
    validator("evaluation").validate(whole)
    assert not validator("evaluation").is_valid(whole | {"seed": None})


def test_the_comparison_keeps_its_schema(tmp_path: Path) -> None:
    a, b = (load(write_paired(tmp_path / name, outcomes(lost))) for name, lost in (("a", 40), ("b", 25)))
    whole = as_json(compare(a, b))
    validator("comparison").validate(whole)
    assert not validator("comparison").is_valid(whole | {"power": 2})


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parts[-3])
def test_the_studies_keep_their_schema(path: Path) -> None:
    validator("study").validate(read_json(path))
