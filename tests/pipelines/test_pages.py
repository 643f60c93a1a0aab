"""What a person reads first of a flow run: its name, its tags, its artifacts, its form; on a real Prefect server."""

import os
import re
import sys
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

pytest.importorskip("prefect")
pytest.importorskip("dvc")

from httpx import ConnectError
from prefect import flow, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run
from prefect.states import Failed
from prefect.utilities.callables import parameter_schema

from components.foundation.storage import write_text
from components.statistics.documents import write_document
from pipelines.flows import evaluate as evaluation
from pipelines.flows import harden as pipeline
from pipelines.graph import stage_names
from pipelines.parameters.presets import presets
from pipelines.running import pages, process, stage
from pipelines.running.pages import Told
from tests.parts.evaluation_files import document

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")
ROOT = Path(__file__).resolve().parents[2]
REPORT = "http://example.org/#/experiments/1/runs/r/artifacts/report/robustness.dated.html"


def seen(run: UUID | None) -> tuple[FlowRun, dict[str, Any]]:
    """A flow run as the server has it, and its artifacts by key."""
    assert run is not None
    with get_client(sync_client=True) as client:
        wanted = {"artifacts": {"flow_run_id": {"any_": [str(run)]}}}
        found = client._client.post("/artifacts/filter", json=wanted).json()
        return client.read_flow_run(run), {one["key"]: one for one in found}


def test_a_mistake_is_the_name_of_its_run_and_its_result(toy: Path, server: None) -> None:
    state = pipeline.harden(set=["compute.device=toaster"], return_state=True)  # pyright: ignore
    run, artifacts = seen(state.state_details.flow_run_id)
    said = "params.yaml: compute.device: got 'toaster', want cpu or cuda"
    assert (run.name, run.tags) == (f"Refused: {said}", ["Refused"])
    assert artifacts["results"]["data"] == f"**Refused**\n\n{said}"


@pytest.mark.parametrize("served", [True, False], ids=["a server", "a database"])
def test_a_result_is_the_name_of_its_run_with_a_link_that_a_browser_opens(server: None, served: bool) -> None:
    title, table = "digits \u00b7 pgd_at \u00b7 worst case 68.2 % \u00b7 trusted \u00b7 GO", "| worst case | 68.2 |"
    shown = {"Report": REPORT} | (
        {} if served else {"To see them": "mlflow ui --backend-store-uri sqlite:///mlflow.db"}
    )

    @flow(name="shows", persist_result=False)
    def shows() -> str:
        pages.call("digits \u00b7 pgd_at", ["digits", "pgd_at", ""])
        with pages.Progress(2) as progress:
            progress.advance()
            progress.tell("evaluate_attacks: student \u00b7 APGD-T \u00b7 120/359 images \u00b7 41 s left")
        pages.show(Told(title, ["GO", "digits"], table), shown)
        return str(flow_run.id)

    run, artifacts = seen(UUID(shows()))
    assert (run.name, sorted(run.tags)) == (title, ["GO", "digits", "pgd_at"])
    assert artifacts["results"]["data"].startswith(table) and REPORT in artifacts["results"]["data"]
    assert ("report" in artifacts) == served
    assert "file:" not in str(artifacts)
    assert artifacts["progress"]["description"].endswith("120/359 images \u00b7 41 s left")


def test_a_report_is_told_in_the_words_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_document(tmp_path / "reports/robustness.json", made := document())
    write_text(tmp_path / "reports/robustness.html", "<footer></footer>")
    found = pages.told(tmp_path, Path("reports/robustness.json"))
    worst = made.models["student"].worst_case
    assert found is not None and worst is not None
    assert f"worst case {100 * worst.value:.1f} %" in found.title and "shapes" in found.tags
    rows = [line for line in found.markdown.splitlines() if line.startswith("|")]
    assert rows[2].startswith("| worst case |") and rows[3].startswith("| W-Robust |")
    assert max(map(len, rows)) < 100, "fits beside Prefect's panels"
    assert pages.told(tmp_path, Path("nothing.json")) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("student \u00b7 APGD-T \u00b7 120/359 images \u00b7 41 s left", True),
        ("epoch   3/30  loss   0.1234  validation clean  98.0%  robust  70.1%     41 s left", True),
        ("epoch   0/30  (untrained)   validation clean  14.0%  robust   0.0%", False),
        ("digits: 1/9 left out", False),
    ],
)
def test_lines_that_say_how_far_a_stage_is_are_told(line: str, told: bool) -> None:
    logged, shown = list[str](), list[str]()
    stage._with_progress(logged.append, "train", shown.append)(line)
    assert logged == [line] and shown == ([f"train: {line}"] if told else [])


def test_forms_offer_lists() -> None:
    own = parameter_schema(pipeline.harden).properties
    theirs = parameter_schema(evaluation.evaluate).properties
    assert choices(own["preset"]) == [*presets(ROOT)]
    assert choices(own["targets"]) == stage_names(ROOT) and "report" in stage_names(ROOT)
    assert choices(theirs["cascade"]) == ["quick", "autoattack", "none"]
    assert choices(theirs["device"]) == ["auto", "cpu", "cuda"]


def choices(schema: Any) -> list[str] | None:
    """The values that a form offers for a parameter: where a list of them is, anywhere in its schema."""
    if isinstance(schema, dict):
        return schema.get("enum") or next(filter(None, map(choices, schema.values())), None)
    return next(filter(None, map(choices, schema)), None) if isinstance(schema, list) else None


def test_addresses_are_read_back_from_what_a_person_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = f"All runs: http://h/#/a?b=c:d\nReport:   {REPORT}\nMLflow keeps them in a file; to see them: mlflow ui x"
    monkeypatch.setattr(pages, "ask_temper", lambda *_, **__: lines)
    found = pages.tracked(tmp_path, "run")
    assert (found["All runs"], found["Report"]) == ("http://h/#/a?b=c:d", REPORT)
    assert [address for address in found.values() if re.match("mlflow ui", address)] == ["mlflow ui x"]


def test_a_server_that_goes_away_ends_no_stage_and_no_flow(monkeypatch: pytest.MonkeyPatch, server: None) -> None:
    """Whatever is asked of the server for a person's page fails, again and again: the flow is as if nothing was."""

    def away(*_: object, **__: object) -> None:
        raise ConnectError("Connection refused")

    for name in ("create_progress_artifact", "update_progress_artifact", "create_markdown_artifact", "get_client"):
        monkeypatch.setattr(pages, name, away)

    @flow(name="alone", persist_result=False)
    def alone() -> str:
        pages.call("digits", ["GO"])
        with pages.Progress(2) as progress:
            progress.advance()
            progress.tell("41 s left")
        pages.show(Told("title", [], "table"), {})
        pages.explain("digits", Failed(message="why"))
        return "ended"

    assert alone() == "ended"


def test_a_log_that_fails_loses_a_line_and_no_process(tmp_path: Path) -> None:
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if line == "1":
            raise ConnectError("Connection refused")

    code = "import time\nfor number in range(4): print(number, flush=True); time.sleep(0.05)"
    limits = {"stop": threading.Event(), "time_limit": 60}
    end = process.run([sys.executable, "-c", code], root=tmp_path, environment=os.environ, log=log, **limits)
    assert (end.returncode, end.lines, lines) == (0, ("0", "1", "2", "3"), ["0", "1", "2", "3"])
