"""The flow over dvc.yaml: one Prefect task per stage, each run by DVC as a process of its own.

DVC decides what has to run and writes dvc.lock, the same bytes as `dvc repro`. The flow adds order, parallel branches,
retries, time limits, GPU slots, live logs and artifacts.
"""

import sys
from collections.abc import Mapping
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
from components.foundation.process import RECIPE, ask_temper
from components.foundation.provenance import fingerprint
from components.foundation.recipes import title_of
from pipelines import graph
from pipelines.flows.choices import Preset, StageName
from pipelines.graph import Stage
from pipelines.parameters.check import PARAMS
from pipelines.running import pages
from pipelines.running.cancellation import cancellable
from pipelines.running.checkout import sole_run
from pipelines.running.forwarder import forwarding
from pipelines.running.prepare import prepared
from pipelines.running.retries import retries as retried
from pipelines.running.slots import gpu_in_use, gpu_slot
from pipelines.running.stage import run_stage
from pipelines.running.tasks import FlowRun, unfinished
from pipelines.running.terminal import STAGES_GO_ON

RESULT, REPORT = Path("reports/robustness.json"), "report"
TEACHERS, STUDENT = ("train_clean_teacher", "train_robust_teacher"), "distill_student"


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
        with sole_run(root):
            stages, told = prepared(root, preset, set or [], targets or []), read_yaml(root / PARAMS)
            gpu = gpu_in_use((told.get("compute") or {}).get("device"))
            run = FlowRun(root=root, force=force, gpu=gpu, time_limit=stage_hours * 3600)
            run.environment[RECIPE] = fingerprint(told)
            return _run(run, told, stages, retried(retries, retry_delay_seconds, run.stop))
    except InputError as error:
        return pages.refuse("", error)


def _run(run: FlowRun, recipe: Mapping[str, Any], stages: Mapping[str, Stage], again: dict[str, Any]) -> State[Any]:
    """The end of the flow, once its stages have ended."""
    root, force = run.root, run.force
    pages.call(title := title_of(recipe) or "harden", title.split(pages.SEPARATOR))
    get_run_logger().info("pipeline run %s: %s", run.pipeline, ", ".join(stages))
    entries = graph.lock_entries(root)
    with forwarding(root, [run.pipeline], run.environment, get_run_logger().warning) as told:
        run.environment.update(told | ({"TEMPER_ANEW": "1"} if force else {}))
        with cancellable(run.stop):
            states = _walk(run, stages, again)
    graph.order_lock(root, [*entries, *stages])
    _publish_times(run, states)
    if end := unfinished(states.values(), STAGES_GO_ON):
        _report_on_teachers(run, states)
        pages.explain(title, end)
        return end
    # The report of another run says nothing of this one.
    if REPORT in stages and (result := pages.told(root, RESULT)):
        pages.show(result, pages.tracked(root, run.pipeline))
    cached = sum(state.name == "Cached" for state in states.values())
    return Completed(message=f"{len(states) - cached} stages ran, {cached} were up to date")


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
        with pages.Progress(len(stages)) as progress:
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


def _report_on_teachers(run: FlowRun, states: Mapping[str, State[Any]]) -> None:
    """Where all but the student could be trained, evaluates and reports what there is: dvc.yaml knows no part of it."""
    student = states.get(STUDENT)
    trained = [state for name, state in states.items() if name in TEACHERS and state.is_completed()]
    if student is None or not student.is_failed() or len(trained) < len(TEACHERS):
        return
    log = get_run_logger()
    log.info("%s ended as %s: the report is on the teachers alone", STUDENT, student.name)
    names = [stage.removeprefix("train_") for stage in TEACHERS]
    models = [f"--model={name}=models/{name}.safetensors" for name in names]
    out = Path("evaluation/teachers")
    options = ["--data", "data/normalized.safetensors", "--params", PARAMS, "--out", str(out)]
    with gpu_slot(run.gpu, run.stop, log.info):
        run.process([sys.executable, "-m", "temper", "evaluate", *models, *options], log.info)
    if result := pages.told(run.root, out / RESULT.name):
        publish = pages.best_effort(artifacts.create_markdown_artifact)
        publish(result.markdown, key="teachers", description=f"Without a student: {out}")


@pages.best_effort
def _publish_times(run: FlowRun, states: Mapping[str, State[Any]]) -> None:
    rows = [
        {"stage": name, "state": state.name, "seconds": round(run.seconds.get(name, 0.0), 1)}
        for name, state in states.items()
    ]
    about = "How each stage ended, and its last attempt's time"
    artifacts.create_table_artifact(table=rows, key="stages", description=about)
