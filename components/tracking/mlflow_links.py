"""What a run in MLflow is linked with: the data set that it read, and the model that it registered."""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any, Protocol

from components.tracking import serving
from components.tracking.delivery import Event, Outbox
from components.tracking.registry import card_of, described, updated, version_of


class Connection(Protocol):
    """What is needed of `mlflow_runs.Mlflow`."""

    client: Any
    experiment: str

    def pipeline(self, box: Outbox, event: Event) -> str:
        """The id of the pipeline's run."""
        ...

    def tag(self, run: str, tags: dict[str, Any]) -> None:
        """Sets tags of a run."""
        ...


def log_dataset(mlflow: Connection, box: Outbox, event: Event) -> None:
    """Links the stage's run, and the pipeline's where that is asked for, with the images used; once each."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    schema = {"features": _tensor("uint8", *event["image_shape"]), "targets": _tensor("int64")}
    dataset = Dataset(
        name=event["name"],
        # As much as MLflow keeps; the profile has all of it.
        digest=event["digest"][:36],
        source_type="local",
        source=json.dumps({"uri": event["path"]}),
        schema=json.dumps({"mlflow_tensorspec": schema}),
        profile=json.dumps({"images": event["counts"], "classes": event["classes"], "sha256": event["digest"]}),
    )
    tag = InputTag("mlflow.data.context", event["context"])
    for run in [box.state.run, *([mlflow.pipeline(box, event)] if event.get("on_pipeline") else [])]:
        known = mlflow.client.get_run(run).inputs.dataset_inputs
        if (dataset.name, dataset.digest) not in [(one.dataset.name, one.dataset.digest) for one in known]:
            mlflow.client.log_inputs(run, [DatasetInput(dataset, [tag])])


def register(mlflow: Connection, box: Outbox, event: Event) -> None:
    """Registers a model file for the pipeline's run, or brings the version that it has already up to date."""
    client, name, tags = mlflow.client, event["name"], event["tags"]
    run, digest = mlflow.pipeline(box, event), tags.get("sha256")
    if known := version_of(client, name, digest, run):
        new = updated(known.tags, tags)
        for key, value in new.items():
            client.set_model_version_tag(name, known.version, key, value)
        # The numbers that count are described, and what the gate has said stays.
        card = card_of(known.description)
        if "worst_case" in new or not card:
            card = event.get("card", "")
        client.update_model_version(name, known.version, described({**known.tags, **new}, card))
        version, logged = known.version, known.model_id
    else:
        version, logged = _registered(mlflow, box, event, run)
    _link(mlflow, run, logged)
    for one in (box.state.run, run):
        mlflow.tag(one, {"registered": f"{name} version {version}"})


def _registered(mlflow: Connection, box: Outbox, event: Event, run: str) -> tuple[str, str]:
    """The number of a new version, and its logged model."""
    from mlflow.exceptions import MlflowException

    client, name, tags = mlflow.client, event["name"], event["tags"]
    logged = client.create_logged_model(mlflow.experiment, name, run, tags, model_type="classifier")
    weights, example = (box.path.parent / kept for kept in event["kept"])
    form = {key: event[key] for key in ("image_shape", "num_classes")}
    with tempfile.TemporaryDirectory() as folder:
        serving.save(Path(folder, "model"), weights, example, run=run, model_id=logged.model_id, **form)
        client.log_model_artifacts(logged.model_id, str(Path(folder, "model")))
    client.finalize_logged_model(logged.model_id, "READY")
    with contextlib.suppress(MlflowException):
        client.create_registered_model(name, description=event.get("about", ""))
    source, card = f"models:/{logged.model_id}", described(tags, event.get("card", ""))
    version = client.create_model_version(name, source, run, tags, description=card, model_id=logged.model_id)
    return version.version, logged.model_id


def _link(mlflow: Connection, run: str, logged: str | None) -> None:
    """Shows a logged model on the run's page, once; versions of other tools have none."""
    from mlflow.entities import LoggedModelOutput

    outputs: Any = mlflow.client.get_run(run).outputs
    shown = [one.model_id for one in outputs.model_outputs] if outputs else []
    if logged and logged not in shown:
        mlflow.client.log_outputs(run, [LoggedModelOutput(logged, 0)])


def _tensor(dtype: str, *shape: int) -> str:
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]}}])
