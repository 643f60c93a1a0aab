"""`prefect.yaml`: every deployment names a flow that is there, with parameters that it has."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prefect")

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


def flow(deployment: dict[str, Any]) -> Any:
    path, name = deployment["entrypoint"].split(".py:")
    assert (ROOT / f"{path}.py").is_file()
    return getattr(importlib.import_module(path.replace("/", ".")), name)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["entrypoint"])
def test_a_deployment_fits_its_flow(deployment):
    parameters = inspect.signature(flow(deployment).fn).parameters
    assert set(deployment["parameters"]) <= set(parameters)
    # What is needed and has no default is asked for at the start of a run; it must not look as if it had one.
    needed = {name for name, one in parameters.items() if one.default is inspect.Parameter.empty}
    assert not needed & set(deployment["parameters"])


def test_no_two_deployments_have_the_same_name():
    names = [one["name"] for one in DEPLOYMENTS]
    assert len(set(names)) == len(names), "a list shows them without their flows"
    found = {f"{flow(one).name}/{one['name']}" for one in DEPLOYMENTS}
    assert found == {"evaluate/evaluate-models", "harden/weekly", "study/run-study"}
