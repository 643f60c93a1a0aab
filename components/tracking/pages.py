"""What a person finds first in MLflow: a saved view of the list of runs, and the addresses of its pages.

MLflow keeps a shared view as a tag of the experiment, in the form below. Knows MLflow's addresses, and imports no
MLflow.
"""

import base64
import json
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

VIEW = "temper"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
# Where `mlflow ui` serves a database that has no server yet.
LOCAL = "http://127.0.0.1:5000"
# Without it MLflow opens its pages for language models.
_TRAINING = "workflowType=machine_learning"
_NAME, _CREATED, _DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"
# Beside the run's name and time: what each column shows, and its width in pixels. The first ones are seen on a screen
# 1280 wide beside MLflow's own panels.
_COLUMNS = {
    "tags.`decision`": 75,
    "metrics.`worst case percent`": 140,
    "metrics.`clean percent`": 110,
    "tags.`verdict`": 80,
    "tags.`epsilon`": 80,
    "tags.`dataset`": 110,
    "tags.`method`": 110,
    "tags.`model`": 110,
    "metrics.`num_images`": 100,
}
_WIDTHS = {_NAME: 175, _CREATED: 110, **_COLUMNS, _DURATION: 80}


def view_tag(present: str | None) -> str | None:
    """The value of the experiment's tag `VIEW_TAG`; None where what is there stays: the same, or changed by a person.

    Args:
        present: the tag's value now.
    """
    state = f"deflate;{base64.b64encode(zlib.compress(json.dumps(_STATE).encode())).decode()}"
    if present is not None:
        try:
            found = json.loads(present)
            if found["state"] == state or found["createdAt"] != found["updatedAt"]:
                return None
        except (ValueError, TypeError, KeyError):
            return None
    now = time.time_ns() // 1_000_000
    return json.dumps({"name": "Temper", "createdAt": now, "updatedAt": now, "state": state})


def server(uri: str) -> str:
    """The address of the pages of a tracker, without user and password: its own, or where `mlflow ui` serves them."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return LOCAL
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def list_page(experiment: str) -> str:
    """The list of runs in the saved view, behind the server's address."""
    return f"#/experiments/{experiment}/runs?{_TRAINING}&viewStateShareKey={VIEW}"


def run_page(experiment: str, run: str) -> str:
    """The page of a run, behind the server's address."""
    return f"#/experiments/{experiment}/runs/{run}?{_TRAINING}"


def file_page(experiment: str, run: str, path: str) -> str:
    """The page that shows a file of a run, behind the server's address."""
    return f"#/experiments/{experiment}/runs/{run}/artifacts/{path}?{_TRAINING}"


def told(uri: str, pages: Mapping[str, str]) -> list[str]:
    """Where to look, in lines: the pages by name, and what to start before where the tracker has no server."""
    if not pages:
        return []
    width = max(map(len, pages)) + 1
    lines = [f"{f'{name}:':{width}} {server(uri)}/{page}" for name, page in pages.items()]
    if server(uri) != LOCAL or uri.startswith("http"):
        return lines
    return [*lines, f"MLflow keeps them in a file; to see them: mlflow ui --backend-store-uri {_store(uri)}"]


def _store(uri: str) -> str:
    """The tracker's address as one types it here: without a password, a database in this folder by its name."""
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":
        path = Path(uri.removeprefix("sqlite:///"))
        return f"sqlite:///{path.name}" if path.parent == Path.cwd() else uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


# As MLflow's page writes it when a person shares a view.
_STATE: dict[str, Any] = {
    "searchFilter": "",
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "selectedColumns": list(_COLUMNS),
    "columnOrder": list(_WIDTHS),
    "columnWidths": _WIDTHS,
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsVisibilityMap": {},
    "runsHiddenMode": "FIRST_10_RUNS",
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": False,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": None,
    "groupsExpanded": {},
    "autoRefreshEnabled": True,
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}
