"""Where a person is sent in MLflow, and the saved view that waits there."""

import base64
import json
import random
import string
import zlib
from pathlib import Path
from typing import Any

import pytest

from components.tracking.pages import VIEW, list_page, run_page, server, told, view_tag


def state_of(tag: str | None) -> dict[str, Any]:
    assert tag is not None
    form, text = json.loads(tag)["state"].split(";", 1)
    assert form == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(text)))


def test_the_view_shows_decision_and_numbers_first() -> None:
    state = state_of(view_tag(None))
    first = ["tags.`decision`", "metrics.`worst case percent`", "metrics.`clean percent`", "tags.`verdict`"]
    assert state["selectedColumns"][: len(first)] == first
    assert set(state["selectedColumns"]) < set(state["columnOrder"]) == set(state["columnWidths"])
    assert VIEW in list_page("7")


def test_a_view_is_written_once_and_what_a_person_changed_stays() -> None:
    own = view_tag(None)
    assert view_tag(own) is None
    outdated = json.loads(str(own)) | {"state": "deflate;older"}
    assert state_of(view_tag(json.dumps(outdated))) == state_of(own)
    changed = outdated | {"updatedAt": outdated["createdAt"] + 1}
    assert [view_tag(text) for text in (json.dumps(changed), "no json", "[]", "{}")] == [None] * 4


@pytest.mark.parametrize("seed", range(50))
def test_no_address_holds_what_stands_before_its_host(seed: int) -> None:
    rng = random.Random(seed)
    name, secret = ("".join(rng.choices(string.ascii_letters + "%+.-_:@", k=rng.randint(8, 20))) for _ in range(2))
    scheme, path = rng.choice(["http", "https", "postgresql", "mysql+pymysql"]), rng.choice(["", "/mlflow", "/a/b/"])
    uri = f"{scheme}://{name}:{secret}@example.org:5000{path}"
    lines = "\n".join(told(uri, {"This run": run_page("1", "r")}))
    assert secret not in lines and name not in lines
    assert server(uri).startswith("http") and not server(uri).endswith("/")


def test_a_database_is_told_with_what_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page, how = told(f"sqlite:///{tmp_path}/mlflow.db", {"This run": run_page("1", "r")})
    assert page == "This run: http://127.0.0.1:5000/#/experiments/1/runs/r?workflowType=machine_learning"
    assert how.endswith("mlflow ui --backend-store-uri sqlite:///mlflow.db")
    assert told("https://example.org", {"This run": "#/x"}) == ["This run: https://example.org/#/x"]
    assert told("https://example.org", {}) == []
