"""The flow `evaluate`: its process's command line, retries that continue, ends that say why, and a real evaluation."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prefect")

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from components.commands.evaluate_options import EvaluateOptions
from pipelines.flows import evaluate as pipeline
from pipelines.flows.evaluate import command_line
from tests.parts.outside_files import make_case, options_of
from tests.parts.pipeline_files import ROOT

# Stands in for `temper evaluate`: what it does is the data's name, what it was told is in a file.
STAND_IN = """\
import pathlib, sys, time

arguments = sys.argv[2:]
number, shards = arguments[arguments.index("--shard") + 1].split("/")
does = arguments[arguments.index("--data") + 1]
out = pathlib.Path(arguments[arguments.index("--out") + 1]); out.mkdir(parents=True, exist_ok=True)
with open(out / f"told.{number}", "a") as file:
    print(*arguments, file=file)
if does == "fails once" and len((out / "told.0").read_text().splitlines()) == 1:
    print("no luck", flush=True)
    sys.exit(3)
if does == "refuses" and number == "0":
    print("error: --threat: missing", file=sys.stderr)
    sys.exit(2)
if does == "hangs" or (does == "refuses" and number != "0"):
    time.sleep(60)
print("done")
"""

Evaluate = Callable[..., State[Any]]


@pytest.fixture
def run(server: None) -> Evaluate:
    """Runs the flow and returns its final state."""
    return lambda **given: pipeline.evaluate(**{"retry_delay_seconds": 0, **given}, return_state=True)  # pyright: ignore


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the command is the stand-in."""
    (tmp_path / "temper").mkdir()
    (tmp_path / "temper/__init__.py").touch()
    (tmp_path / "temper/__main__.py").write_text(STAND_IN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(folder: Path, shard: int = 0) -> list[str]:
    return (folder / f"told.{shard}").read_text().splitlines()


def test_every_parameter_is_an_option_of_the_command():
    """And every option a parameter, so that a deployment can do what a command line can."""
    parameters = set(inspect.signature(pipeline.evaluate.fn).parameters)
    options = {field.name for field in fields(EvaluateOptions)} - {"shard"}
    renamed = {"models": "model", "threats": "threat", "architectures": "architecture"}
    renamed |= {"normalizations": "normalization"}
    own = {"shards", "retries", "retry_delay_seconds", "hours"}
    assert {renamed.get(name, name) for name in parameters - own} == options


def test_what_is_given_is_on_the_command_line_and_nothing_else():
    given = {"models": ["a=b", "c=d"], "threats": None, "data": "x", "seed": 0, "images": None, "track": False}
    assert command_line(given) == [
        *("--model", "a=b", "--model", "c=d", "--data", "x", "--seed", "0"),
    ]
    assert command_line({"track": True, "shards": 3}) == ["--track"]
    told = options_of(command_line({"models": ["a=b"], "data": "x", "batch_size": 40, "track": True}))
    assert told == EvaluateOptions(model=["a=b"], data="x", batch_size=40, track=True)


@pytest.mark.slow
def test_shards_are_processes_with_the_same_arguments(toy, run):
    state = run(models=["a=b"], data="works", threats=["linf:8/255"], out="to", shards=3)
    assert state.is_completed() and state.message == "results in to"
    for number in range(3):
        want = f"--model a=b --data works --threat linf:8/255 --out to --shard {number}/3"
        assert told(toy / "to", number) == [want]


def test_a_failure_is_tried_again_in_the_same_folder(toy, run):
    state = run(models=["a=b"], data="fails once", retries=1)
    assert state.is_completed() and len(told(toy / "evaluation/outside")) == 2
    assert len(set(told(toy / "evaluation/outside"))) == 1


def test_a_failure_without_another_try_says_its_last_line(toy, run):
    state = run(models=["a=b"], data="fails once", retries=0)
    assert state.is_failed() and state.message == "no luck (exit code 3)"


def test_a_mistake_is_not_tried_again_and_stops_the_others(toy, run):
    state = run(models=["a=b"], data="refuses", retries=5, shards=2)
    assert (state.name, state.message) == ("Refused", "--threat: missing")
    assert len(told(toy / "evaluation/outside")) == 1
    state = run(models=["a=b"], data="works", shards=0)
    assert (state.name, state.message) == ("Refused", "shards: got 0, want at least 1")


def test_a_time_limit(toy, run):
    state = run(models=["a=b"], data="hangs", retries=0, hours=1 / 3600)
    assert (state.name, state.message) == ("TimedOut", "stopped after its time limit of 1 s")


@pytest.mark.slow
def test_a_real_evaluation_gives_table_and_page(tmp_path, monkeypatch, run):
    make_case(tmp_path / "case")
    monkeypatch.chdir(tmp_path / "case")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    given = {"models": ["one=one.safetensors"], "data": "images.safetensors", "params": "small.yaml", "out": "to"}
    state = run(**given, shards=2)
    assert state.is_completed()
    journal = (tmp_path / "case/to/journal.jsonl").read_bytes()
    with get_client(sync_client=True) as client:
        # The server keeps those of other tests' runs, under the same keys.
        found = [one for one in client.read_artifacts() if one.flow_run_id == state.state_details.flow_run_id]
    artifacts = {artifact.key: str(artifact.data) for artifact in found}
    assert "98.3" in artifacts["results"] and "worst case" in artifacts["results"]
    assert (tmp_path / "case/to/robustness.dated.html").exists()
    # Again with the same parameters: nothing is left to do.
    assert run(**given).is_completed() and (tmp_path / "case/to/journal.jsonl").read_bytes() == journal
    refused = run(**given | {"seed": 1})
    assert refused.name == "Refused" and "seed was 0, is 1; delete it to start anew" in str(refused.message)
