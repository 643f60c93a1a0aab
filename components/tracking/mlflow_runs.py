"""A pipeline run's journals as runs in MLflow, which mlflow_client.py, mlflow_links.py and serving.py import as well.

They go into the experiment that a record names. A pipeline run is a parent run, a stage a child; the hashes of files
link a stage with the runs that made what it read. Runs are named explicitly in each call: nothing uses MLflow's active
run.
"""

import re
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from components.foundation.lines import say
from components.foundation.params import flat
from components.tracking import database, mlflow_links, pages
from components.tracking.delivery import Event, Outbox, Refused, Unreachable, first_line
from components.tracking.journal_files import experiment_name, pipeline_status, stage_of
from components.tracking.mlflow_client import open_client, unreachable

# MLflow's limits are 1000 metrics and 100 parameters or tags a batch; long values are hard to read in its tables.
METRICS_PER_BATCH, ENTRIES_PER_BATCH, MAX_PARAM, MAX_TAG = 500, 100, 250, 5000
# The record itself is wrong: sending it again would not help.
REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")


class Mlflow:
    """A connection: the client, the experiment, and the runs found or made in it."""

    def __init__(self, uri: str, trace: bool = False) -> None:
        self.client, self.uri, self.trace = open_client(uri), uri, trace
        # A server knows its place for artifacts; for a database here, say it rather than take the default, ./mlruns.
        file = database.file_of(uri)
        self._artifacts = str(file.parent / database.ARTIFACTS) if file else None
        self._experiments: dict[str, str] = {}
        self._pipelines: dict[tuple[str, str], str] = {}
        self.enter(experiment_name())

    def enter(self, name: str) -> None:
        """Has runs be found and made in the experiment of that name, made if there is none."""
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name)
            made = found.experiment_id if found else self.client.create_experiment(name, self._artifacts)
            self._experiments[name] = made
            self._offer_view(made)
        self.experiment = self._experiments[name]

    def send(self, box: Outbox, events: list[Event]) -> None:
        """Takes one record, or several of metrics. Errors: Unreachable, Refused."""
        try:
            # Journals of earlier versions name none.
            self.enter(box.experiment or experiment_name())
            if events[0]["event"] == "metrics":
                self.measure(box.state.run, events)
            else:
                SEND[events[0]["event"]](self, box, events[0])
        except Exception as error:
            if self.trace:
                say("".join(traceback.format_exception(error)).rstrip(), to=sys.stderr)
            raise _sorted_out(error) from error

    def run(self, name: str, started: int, tags: Mapping[str, str]) -> str:
        """The id of the run with these tags, made if there is none."""
        return self.find(tags) or self.client.create_run(self.experiment, started, dict(tags), name).info.run_id

    def find(self, tags: Mapping[str, str]) -> str | None:
        """The id of the latest run with these tags."""
        text = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs([self.experiment], text, max_results=1, order_by=["attributes.start_time DESC"])
        return found[0].info.run_id if found else None

    def pipeline(self, box: Outbox, event: Event) -> str:
        """The id of the pipeline's run, the parent of its stages."""
        name = box.path.parent.name
        if (self.experiment, name) not in self._pipelines:
            tags = {"temper.pipeline": name, "temper.stage": "pipeline"}
            self._pipelines[self.experiment, name] = self.run(name, _milliseconds(event), tags)
        return self._pipelines[self.experiment, name]

    def _offer_view(self, experiment: str) -> None:
        """Keeps the view of the list of runs with the experiment, which shows no number by itself."""
        tags = self.client.get_experiment(experiment).tags
        if (view := pages.view_tag(tags.get(pages.VIEW_TAG))) is not None:
            self.client.set_experiment_tag(experiment, pages.VIEW_TAG, view)

    def measure(self, run: str, events: list[Event]) -> None:
        """Logs metrics, in batches."""
        from mlflow.entities import Metric

        points = ((event, key, value) for event in events for key, value in event["metrics"].items())
        found = [Metric(_key(key), value, _milliseconds(event), event["step"] or 0) for event, key, value in points]
        self._log(run, "metrics", found, METRICS_PER_BATCH)

    def params(self, run: str, tree: Mapping[str, Any]) -> None:
        """Logs the parameters that are short and not there yet: MLflow never changes one."""
        from mlflow.entities import Param

        known = self.client.get_run(run).data.params
        short = {_key(key): str(value) for key, value in flat(tree).items() if value != {}}
        fresh = [Param(key, value) for key, value in short.items() if key not in known and len(value) <= MAX_PARAM]
        self._log(run, "params", fresh, ENTRIES_PER_BATCH)

    def name(self, run: str, title: str, instead_of: str | None = None) -> None:
        """Names a run; where `instead_of` is given, only one that is called so."""
        if instead_of is None or self.client.get_run(run).info.run_name == instead_of:
            self.client.update_run(run, name=title)

    def tag(self, run: str, tags: Mapping[str, Any]) -> None:
        """Sets tags."""
        from mlflow.entities import RunTag

        found = [RunTag(key, str(value)[:MAX_TAG]) for key, value in tags.items()]
        self._log(run, "tags", found, ENTRIES_PER_BATCH)

    def _log(self, run: str, kind: str, entries: list[Any], size: int) -> None:
        for start in range(0, len(entries), size):
            self.client.log_batch(run, **{kind: entries[start : start + size]})


def _open(mlflow: Mlflow, box: Outbox, event: Event) -> None:
    # Found by what a journal is, so that a forwarder that dies between making a run and noting it makes no second one.
    tags = {"temper.pipeline": box.path.parent.name, "temper.stage": event["stage"], "temper.journal": box.path.stem}
    parent = mlflow.pipeline(box, event)
    box.state.run = mlflow.run(box.path.stem.replace(".", " "), _milliseconds(event), tags)
    flow = ({"prefect.flow_run": event["flow_run"]} if event["flow_run"] else {}) | event.get("labels", {})
    source = {"mlflow.source.name": f"components.stages.{event['stage']}", "mlflow.source.type": "JOB"}
    mlflow.tag(box.state.run, {"mlflow.parentRunId": parent, **source, **flow})
    mlflow.tag(parent, {"mlflow.source.name": "dvc.yaml", "mlflow.source.type": "PROJECT", **flow})
    box.state.pages = {
        "All runs": pages.list_page(mlflow.experiment),
        "This run": pages.run_page(mlflow.experiment, parent),
    }
    for run in (box.state.run, parent):
        mlflow.client.update_run(run, status="RUNNING")


def _params(mlflow: Mlflow, box: Outbox, event: Event) -> None:
    # The pipeline's run has every parameter once, whatever stages run, so that pipelines compare.
    if event["params"]:
        mlflow.params(box.state.run, event["params"])
        mlflow.client.log_dict(box.state.run, dict(event["params"]), "params.json")
    parent, recipe = mlflow.pipeline(box, event), event.get("recipe", {})
    mlflow.params(parent, recipe)
    if recipe:
        mlflow.client.log_dict(parent, dict(recipe), "params.json")
    if title := event.get("title"):
        mlflow.name(parent, title, instead_of=box.path.parent.name)


def _tags(mlflow: Mlflow, box: Outbox, event: Event) -> None:
    commit = event["tags"].get("git.commit")
    # MLflow shows the second as the version of a run.
    shared = {"git.commit": commit, "mlflow.source.git.commit": commit} if commit else {}
    # Decision and verdict are what one looks for in the list of pipeline runs.
    shared |= {key: value for key, value in event["tags"].items() if key.startswith(("decision", "verdict"))}
    mlflow.tag(box.state.run, {**event["tags"], **shared})
    mlflow.tag(mlflow.pipeline(box, event), shared)


def _headline(mlflow: Mlflow, box: Outbox, event: Event) -> None:
    for run in (box.state.run, mlflow.pipeline(box, event)):
        mlflow.measure(run, [event])


def _summary(mlflow: Mlflow, box: Outbox, event: Event) -> None:
    parent = mlflow.pipeline(box, event)
    mlflow.name(parent, event["title"])
    report = pages.file_page(mlflow.experiment, parent, event["report"])
    links = f"[Report]({report}) · [all runs]({pages.list_page(mlflow.experiment)})"
    mlflow.tag(parent, {**event["tags"], "mlflow.note.content": f"{event['text']}\n\n{links}"})
    box.state.pages = {**box.state.pages, "Report": report}


def _produced(mlflow: Mlflow, box: Outbox, event: Event) -> None:
    mlflow.tag(box.state.run, {f"produced.{name}": digest for name, digest in event["hashes"].items()})


def _upstream(mlflow: Mlflow, box: Outbox, event: Event) -> None:
    for name, digest in event["hashes"].items():
        tags = {f"upstream.{name}.sha256": digest}
        if source := mlflow.find({f"produced.{name}": digest}):
            tags[f"upstream.{name}"] = source
            mlflow.tag(source, {f"downstream.{stage_of(box.path)}": box.state.run})
        mlflow.tag(box.state.run, tags)


def _artifact(mlflow: Mlflow, box: Outbox, event: Event) -> None:
    for run in [box.state.run, *([mlflow.pipeline(box, event)] if event["on_pipeline"] else [])]:
        mlflow.client.log_artifact(run, str(box.path.parent / event["kept"][0]), event["folder"] or None)


def _end(mlflow: Mlflow, box: Outbox, event: Event) -> None:
    if box.notes:
        mlflow.client.log_text(box.state.run, "\n".join(box.notes) + "\n", "log.txt")
    if event.get("reason"):
        text = f"{stage_of(box.path)}: {event['reason']}"
        for run in (box.state.run, mlflow.pipeline(box, event)):
            mlflow.tag(run, {"mlflow.note.content": text})
    mlflow.client.set_terminated(box.state.run, event["status"], _milliseconds(event))
    if (status := pipeline_status(box.path.parent)) != "RUNNING":
        mlflow.client.set_terminated(mlflow.pipeline(box, event), status, _milliseconds(event))


SEND: dict[str, Callable[[Mlflow, Outbox, Event], None]] = {
    "open": _open,
    "params": _params,
    "tags": _tags,
    "headline": _headline,
    "summary": _summary,
    "dataset": mlflow_links.log_dataset,
    "produced": _produced,
    "upstream": _upstream,
    "artifact": _artifact,
    "model": mlflow_links.register,
    "note": lambda mlflow, box, event: None,
    "end": _end,
}


def connect(uri: str, trace: bool = False) -> Mlflow:
    """A connection; with `trace` stderr, which is a log then, has all about a record that is not taken.

    Errors: Unreachable, within seconds.
    """
    try:
        return Mlflow(uri, trace)
    except Unreachable:
        raise
    except Exception as error:
        raise unreachable(uri, error) from error


def _sorted_out(error: Exception) -> Exception:
    from mlflow.exceptions import MlflowException

    later = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    if isinstance(error, MlflowException):
        later = error.error_code not in REFUSED  # pyright: ignore[reportAttributeAccessIssue]
    return Unreachable(f"MLflow: {first_line(error)}") if later else Refused(first_line(error))


def _milliseconds(event: Event) -> int:
    """When an event happened, in MLflow's unit; journals count microseconds, so that stages keep their order."""
    return event["time"] // 1000


def _key(name: str) -> str:
    # The characters MLflow allows in a name.
    return re.sub(r"[^\w.\-/: ]", "_", name)[:250]
