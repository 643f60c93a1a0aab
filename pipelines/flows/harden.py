"""The flow over dvc.yaml: one Prefect task per stage, each run by DVC as a process of its own.

DVC decides what has to run and writes dvc.lock, the same bytes as `dvc repro`. The flow adds order, parallel branches,
retries, time limits, GPU slots, live logs and artifacts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import artifacts, flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.states import Completed

from components.foundation.errors import InputError
from components.foundation.params import read_yaml
from components.foundation.process import ask_temper
from components.foundation.recipes import title_of
from pipelines import graph
from pipelines.flows.choices import Preset, StageName
from pipelines.graph import Stage
from pipelines.parameters import change as parameters
from pipelines.parameters.check import PARAMS
from pipelines.running import pages
from pipelines.running.forwarder import forwarding
from pipelines.running.retries import retries as retried
from pipelines.running.slots import gpu_in_use
from pipelines.running.stage import run_stage
from pipelines.running.tasks import FlowRun, unfinished

RESULT = Path("reports/robustness.json")


def _name() -> str:
    """A run's name before its parameters are checked."""
    return f"harden {flow_run.parameters.get('preset') or PARAMS}"


# Prefect's default task runner is a thread pool: a stage is a process, its thread only waits.
@flow(name="harden", flow_run_name=_name, persist_result=False)
def harden(
    preset: Preset | None = None,
    set: list[str] | None = None,
    targets: list[StageName] | None = None,
    force: bool = False,
    retries: int = 2,
    retry_delay_seconds: float = 10,
    stage_hours: float = 24,
) -> State[Any]:
    """Hardened models and their report, by running what is stale in dvc.yaml.

    Args:
        preset: name of a file in presets/ that replaces params.yaml; none keeps the present parameters.
        set: single parameters on top, `key=value` each, such as `distill_student.recipe.epochs=10`.
        targets: stages to run, with everything upstream of them; none means all.
        force: compute the stages again even where nothing changed.
        retries: how often a failed stage is tried again; it resumes from its last checkpoint.
        retry_delay_seconds: wait before a retry, varied by half.
        stage_hours: time limit for one attempt at one stage.
    """
    root = Path.cwd()
    try:
        stages = prepared(root, preset, set or [], targets or [])
    except InputError as error:
        return pages.refuse("", error)
    recipe = read_yaml(root / PARAMS)
    pages.call(title := title_of(recipe) or "harden", title.split(pages.SEPARATOR))
    gpu = gpu_in_use((recipe.get("compute") or {}).get("device"))
    run = FlowRun(root=root, force=force, gpu=gpu, time_limit=stage_hours * 3600)
    get_run_logger().info("pipeline run %s: %s", run.pipeline, ", ".join(stages))
    entries = graph.lock_entries(root)
    with forwarding(root, [run.pipeline], run.environment, get_run_logger().warning) as told:
        run.environment.update(told | ({"TEMPER_ANEW": "1"} if force else {}))
        states = _walk(run, stages, retried(retries, retry_delay_seconds, run.stop))
    graph.order_lock(root, [*entries, *stages])
    _publish_times(run, states)
    if end := unfinished(states.values(), "stopped"):
        pages.explain(title, end)
        return end
    if result := pages.told(root, RESULT):
        pages.show(result, pages.tracked(root, run.pipeline))
    cached = sum(state.name == "Cached" for state in states.values())
    return Completed(message=f"{len(states) - cached} stages ran, {cached} were up to date")


def prepared(root: Path, preset: str | None, assignments: Sequence[str], targets: Sequence[str]) -> dict[str, Stage]:
    """The stages to run, once params.yaml is changed and checked. Errors: whatever a user has mistaken, in one line."""
    parameters.change(root, preset, assignments)
    return graph.select(graph.read_graph(root), targets)


def results(root: Path) -> str | None:
    """The result table and where the report is, or None where there are no results or they cannot be rendered."""
    if not (root / RESULT).exists():
        return None
    try:
        return ask_temper("report", "show", str(RESULT), root=root)
    except InputError:
        return None


def _walk(run: FlowRun, stages: Mapping[str, Stage], again: dict[str, Any]) -> dict[str, State[Any]]:
    """The final state of every stage. On any interruption all processes are stopped before it goes on."""
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        progress = pages.Progress(len(stages))
        run = replace(run, tell=progress.tell)
        for name, stage in stages.items():
            upstream = [futures[dependency] for dependency in stage.dependencies]
            one = run_stage.with_options(name=name, task_run_name=name, **again)
            futures[name] = one.submit(run, stage, wait_for=upstream)  # pyright: ignore[reportCallIssue]
        for future in as_completed(list(futures.values())):
            future.wait()  # takes the final state from the thread; the server may not have it yet
            progress.advance()
    except BaseException:
        run.stop.set()
        raise
    return {name: future.state for name, future in futures.items()}


def _publish_times(run: FlowRun, states: Mapping[str, State[Any]]) -> None:
    rows = [
        {"stage": name, "state": state.name, "seconds": round(run.seconds.get(name, 0.0), 1)}
        for name, state in states.items()
    ]
    about = "How each stage ended, and its last attempt's time"
    artifacts.create_table_artifact(table=rows, key="stages", description=about)
