"""The flow that evaluates models that a team already has: `temper evaluate` as a task, or several.

What is finished stays finished: a retry, and a later run with the same parameters, continue from the journal.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import as_completed
from prefect.runtime import flow_run
from prefect.states import Completed

from components.foundation.errors import InputError
from pipelines.flows.choices import CascadeName, Device, PixelType, Precision
from pipelines.running import pages
from pipelines.running.cancellation import cancellable
from pipelines.running.forwarder import forwarding
from pipelines.running.process import Ended, meaning
from pipelines.running.retries import retries as retried
from pipelines.running.slots import gpu_in_use, gpu_slot
from pipelines.running.tasks import FlowRun, state_of, unfinished

# Parameters of the flow alone; all others are options of `temper evaluate`.
OWN = ("shards", "retries", "retry_delay_seconds", "hours")


def _name() -> str:
    """A run's name before it has a result: the models, and what they are evaluated on."""
    models = [str(one).partition("=")[0] for one in flow_run.parameters.get("models", [])]
    return f"{flow_run.parameters.get('data')}{pages.SEPARATOR}{', '.join(models)}"


@flow(name="evaluate", flow_run_name=_name, persist_result=False)
def evaluate(
    models: list[str],
    data: str,
    threats: list[str] | None = None,
    params: str | None = None,
    cascade: CascadeName | None = None,
    precision: Precision | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    out: str = "evaluation/outside",
    architectures: list[str] | None = None,
    normalizations: list[str] | None = None,
    adversarial: PixelType | None = None,
    criteria: str | None = None,
    device: Device | None = None,
    threads: int | None = None,
    track: bool = False,
    shards: int = 1,
    retries: int = 2,
    retry_delay_seconds: float = 10,
    hours: float = 24,
) -> State[Any]:
    """The outcomes, the verdict and the report of models under attack, in the folder `out`.

    Args:
        models: `NAME=REF` each: a file, or models:/… or runs:/… of MLflow.
        data: a data file, a data set's name, or `{name: …, …}`; its test split is attacked.
        threats: `linf:8/255`; further ones are radii of the cascade.
        params: a file in the form of params.yaml with attacks, threat and seed.
        cascade: quick, autoattack or none.
        precision: float32 or bfloat16, of the search; float32 decides.
        images: attack that many images; none means all.
        batch_size: images that go through a model at a time.
        seed: of all random numbers.
        out: the folder of the results and the journal; one folder, one evaluation.
        architectures: `[NAME=]{name: …, …}` of state dicts.
        normalizations: `[NAME=]MEAN:STD` or identity, of state dicts.
        adversarial: uint8 or float32, the form in which adversarial images are kept.
        criteria: `{model: NAME, worst_case: 0.6, …}`, what one of the models must reach.
        device: auto, cpu or cuda.
        threads: of the CPU.
        track: record the result in MLflow, too.
        shards: processes that share the work, each on a GPU of its own where GPUs are used.
        retries: how often a failed process is tried again; it continues.
        retry_delay_seconds, hours: wait before a retry, varied by half; time limit for one attempt.
    """
    arguments, run = command_line(locals()), FlowRun(gpu=gpu_in_use(device), time_limit=hours * 3600)
    return _run(run, arguments, shards, track, retried(retries, retry_delay_seconds, run.stop), Path(out))


def command_line(parameters: Mapping[str, Any]) -> list[str]:
    """What a person would type behind `temper evaluate` for the flow's parameters; what is not given is left out."""
    parts: list[str] = []
    for name, value in parameters.items():
        option = f"--{name.replace('_', '-')}"
        if name in OWN or value is None or value is False:
            continue
        if isinstance(value, list):
            parts += [part for one in value for part in (option.removesuffix("s"), str(one))]
        else:
            parts += [option] if value is True else [option, str(value)]
    return parts


def _processes(run: FlowRun, arguments: list[str], shards: int, track: bool, again: dict[str, Any]) -> list[State[Any]]:
    """The final state of every process, all with the GPUs' slots. On any interruption all are stopped."""
    log = get_run_logger()
    with (
        gpu_slot(run.gpu, run.stop, log.info, shards),
        cancellable(run.stop),
        forwarding(run.root, [run.pipeline] if track else [], run.environment, log.warning) as told,
    ):
        run.environment.update(told)
        try:
            futures = []
            for number in range(shards):
                one = run_shard.with_options(task_run_name=f"shard {number} of {shards}", **again)
                # Each on a GPU of its own, if there are several.
                own = {"CUDA_VISIBLE_DEVICES": str(number)} if run.gpu and shards > 1 else {}
                futures.append(one.submit(run, [*arguments, "--shard", f"{number}/{shards}"], own))
            for future in as_completed(futures):
                future.wait()
                if not future.state.is_completed():
                    # The others would wait for its share for ever.
                    run.stop.set()
        except BaseException:
            run.stop.set()
            raise
        return [future.state for future in futures]


@task(name="evaluate", cache_policy=NO_CACHE, persist_result=False)
def run_shard(run: FlowRun, arguments: Sequence[str], own: Mapping[str, str]) -> State[Any]:
    """The end of one process: Completed, Failed, Refused (a user's mistake), TimedOut or Cancelled, with its line."""
    if run.stop.is_set():
        return state_of(Ended("stopped", "stopped before it started"))
    end = run.process([sys.executable, "-m", "temper", "evaluate", *arguments], get_run_logger().info, **own)
    return state_of(meaning(end, run.time_limit))


def _run(run: FlowRun, arguments: list[str], shards: int, track: bool, again: dict[str, Any], out: Path) -> State[Any]:
    """The end of the flow, once its processes have ended; `again` is how a failed one is retried."""
    if shards < 1:
        return pages.refuse(_name(), InputError(f"shards: got {shards}, want at least 1"))
    states = _processes(run, arguments, shards, track, again)
    if end := unfinished(states, "stopped; the same run continues"):
        pages.explain(_name(), end)
        return end
    if result := pages.told(run.root, out / "robustness.json"):
        pages.show(result, pages.tracked(run.root, run.pipeline) if track else {})
    return Completed(message=f"results in {out}")
