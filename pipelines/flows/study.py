"""The flow `study`: its jobs as Prefect tasks, with retries, GPU slots, live logs, and the table as an artifact."""

import contextvars
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from components.foundation.errors import InputError
from pipelines.running.cancellation import cancellable
from pipelines.running.process import Ended
from pipelines.running.retries import retries as retried
from pipelines.running.slots import gpu_in_use, gpu_slot
from pipelines.running.tasks import STOPPED, refused, state_of
from pipelines.running.terminal import MORE_TO_DO
from pipelines.studies import runner
from pipelines.studies.job import Workplace, run
from pipelines.studies.plan import Job, JobPlan


@flow(name="study", flow_run_name="{name} {scale}", persist_result=False)
def study(
    name: str,
    scale: str = "cpu",
    seeds: list[int] | None = None,
    arms: list[str] | None = None,
    jobs: int = 1,
    data: str | None = None,
    work: str = runner.WORK,
    keep: bool = False,
    stop_after: float | None = None,
    hours: float = 24,
    retries: int = 2,
    retry_delay_seconds: float = 10,
) -> State[Any]:
    """Table and figure of a study, by running the jobs that are not finished.

    Args:
        name: a folder of studies/, or any folder with a study.yaml.
        scale: a size that its study.yaml has.
        seeds, arms: only these; none means all.
        jobs: that many at the same time.
        data: folder with downloaded data sets, in torchvision's layout.
        work: where jobs run.
        keep: take what other versions of the code have finished.
        stop_after: seconds after which all is stopped; the same flow continues.
        hours: time limit for one attempt at one job.
        retries: how often a failed job is tried again; it continues.
        retry_delay_seconds: wait before a retry, varied by half.
    """
    try:
        planned, own = runner.prepared(name, scale, seeds or [], arms or [], data=data, work=work, keep=keep)
    except InputError as error:
        return refused(error)
    here = contextvars.copy_context()

    def start(job: Job, place: Workplace) -> Ended:
        """The job as a task of this flow, called in a thread that knows nothing of it."""
        again = retried(retries, retry_delay_seconds, place.stop)
        one = run_job.with_options(name=job.stage, task_run_name=runner.title(job), **again)
        ended: list[Ended] = []
        state = here.copy().run(one, job, place, hours * 3600, ended, return_state=True)  # pyright: ignore
        return ended[-1] if ended else Ended("failed", state.message or "the task did not start")

    with cancellable(own.stop):
        status, said = runner.run_jobs(planned, own, jobs, start, stop_after, get_run_logger().warning)
    if status == MORE_TO_DO:
        return Cancelled(name=STOPPED, message=said)
    _publish(planned)
    return Failed(message=said) if status else Completed(message=said)


def _publish(planned: JobPlan) -> None:
    table = planned.folder / "results" / f"{planned.scale}.md"
    if table.exists():
        key = f"study-{planned.folder.name}-{planned.scale}".lower().replace("_", "-")
        create_markdown_artifact(table.read_text(encoding="utf-8"), key=key)


@task(cache_policy=NO_CACHE, persist_result=False)
def run_job(job: Job, place: Workplace, time_limit: float, ended: list[Ended]) -> State[Any]:
    """The end of one job as a state, noted in `ended`, too."""
    logger = get_run_logger()
    on_gpu = "compute" in job.told and gpu_in_use((job.told["compute"] or {}).get("device"))
    with gpu_slot(on_gpu, place.stop, logger.info):
        ended.append(run(job, place, logger.info, time_limit))
    return state_of(ended[-1])
