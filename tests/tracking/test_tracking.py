"""MLflow: what a pipeline run looks like when read back through MLflow's own client."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parts.paired_evaluations import outcomes, record_evaluation, write_evaluation
from tests.parts.pipeline_files import make_project

pytest.importorskip("mlflow", reason="MLflow is not installed (extra: tracking)")

from components.data.normalization import Normalization
from components.foundation.errors import InputError
from components.foundation.params import member
from components.models import MODELS
from components.models.parts.model_file import ModelCard, load_model, save_model
from components.tracking import mlflow_client
from components.tracking import mlflow_runs as tracking
from components.tracking.journal import KILLED_SECONDS, SEND_LATER, Journal
from components.tracking.journal_files import Reader, is_sent
from components.tracking.pages import VIEW_TAG
from components.tracking.registry import fetch, resolve
from temper.cli import main as temper

# MLflow's own dependencies warn; ours are still errors in every other file.
pytestmark = pytest.mark.filterwarnings("ignore")

TITLE = "digits \u00b7 pgd_at \u00b7 worst case 70.0 % \u00b7 trusted \u00b7 GO"
ARCHITECTURE = {"name": "small_cnn", "width": "1/4", "batch_norm": {"estimator": "running", "momentum": 0.1}}
DIGEST = "ab" * 32
# A namespace whose processes all end with its first one, as those of a container do.
NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run stages in, that send nothing of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEMPER_TRACKING", "later")
    monkeypatch.setenv("PYTHONPATH", str(Path(tracking.__file__).parents[2]))
    for key in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "TEMPER_PIPELINE",
        "TEMPER_FLOW_RUN",
        *mlflow_client.BOUNDS,
    ):
        monkeypatch.delenv(key, raising=False)
    return tmp_path


def write_student() -> None:
    """student.safetensors and example.npy in the working folder."""
    normalization = Normalization(method="standardize", offset=(0.3,), scale=(0.4,))
    torch.manual_seed(0)
    model = member(MODELS, ARCHITECTURE, "test").build(10, (1, 8, 8), normalization)
    card = ModelCard(
        architecture=ARCHITECTURE,
        classes=tuple("0123456789"),
        image_shape=(1, 8, 8),
        normalization=normalization,
        stage="distill_student",
        epoch=1,
        upstream={},
    )
    save_model("student.safetensors", model.state_dict(), card)
    np.save("example.npy", np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32))


def run_pipeline() -> None:
    """Three stages of a pipeline run, as journals."""
    with Journal.open("normalize_data") as journal:
        journal.produced({"normalized": DIGEST})
    with Journal.open("distill_student") as journal:
        own = {"optimizer": {"name": "sgd", "rate": 0.1}, "long": "x" * 400, "many": {str(n): n for n in range(150)}}
        journal.params(own, {"seed": 3, "distill_student": own}, "digits \u00b7 pgd_at")
        journal.tags({"git.commit": "0123abc", "dvc.params": "42"})
        journal.upstream({"normalized": DIGEST, "clean_teacher": "unknown"})
        journal.dataset("digits", DIGEST, "data/normalized.safetensors", (1, 8, 8), "0123456789", {"train": 1200})
        for epoch in range(3):
            journal.metrics({"train/loss": 1 / (epoch + 1), "odd (name)": float("nan")}, step=epoch)
        journal.note("done")
        tags, card = {"robust_accuracy": 0.7}, "**GO**: 70.0 % (n = 359)"
        journal.model("student.safetensors", "temper-student", (1, 8, 8), 10, "example.npy", tags, card, "hardened")
    with Journal.open("report") as journal:
        journal.headline({"student/robust_accuracy": 0.7})
        Path("report.html").write_text("report")
        journal.artifact("report.html", "report", on_pipeline=True)
        journal.dataset("digits", DIGEST, "data.safetensors", (1, 8, 8), "0123456789", {"test": 359}, evaluated=True)
        journal.summary(TITLE, "**GO**", "report/report.html", {"epsilon": "51/255"})


def runs_of(client, name: str = "temper") -> dict:
    experiment = client.get_experiment_by_name(name)
    return {run.data.tags["temper.stage"]: run for run in client.search_runs([experiment.experiment_id])}


def test_a_pipeline_run_in_mlflow(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("TEMPER_FLOW_RUN", "flow-7")
    monkeypatch.setenv("TEMPER_LABELS", '{"arm": "pgd", "seed": 3}')
    write_student()
    run_pipeline()
    assert temper(["records", "send"]) == 0
    assert temper(["records", "send"]) == 0, "nothing is left to send, nothing is sent twice"
    uri = f"sqlite:///{project / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    runs = runs_of(client)
    assert set(runs) == {"pipeline", "normalize_data", "distill_student", "report"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent, data, student = (runs[name] for name in ("pipeline", "normalize_data", "distill_student"))
    _check_links(parent, data, student)
    _check_records(client, student)
    _check_headline(client, parent, runs["report"])
    _check_first_sight(client, parent)
    _check_model(client, uri, parent)
    assert not (project / "mlruns").exists()
    assert list((project / ".temper").glob("journals/*/files/*")) == [], "copies go when they are sent"


def test_records_of_a_study_are_sent_to_its_experiment(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pipeline, experiment in (("arm-0", "temper-study-x"), ("plain", None)):
        with monkeypatch.context() as patch:
            patch.setenv("TEMPER_PIPELINE", pipeline)
            if experiment:
                patch.setenv("MLFLOW_EXPERIMENT_NAME", experiment)
            with Journal.open("train") as journal:
                journal.metrics({"loss": 1.0}, step=0)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    sent = subprocess.run([sys.executable, "-m", "temper", "records", "send"], capture_output=True, text=True)
    assert (sent.returncode, sent.stderr) == (0, ""), "MLflow says nothing of its own"
    assert [line.split(": ")[0] for line in sent.stdout.splitlines()[:3]] == ["arm-0", "plain", "All runs"]
    client = tracking.connect(mlflow_client.place()).client
    for pipeline, experiment in (("arm-0", "temper-study-x"), ("plain", "temper")):
        assert runs_of(client, experiment)["train"].data.tags["temper.pipeline"] == pipeline


def _check_links(parent, data, student) -> None:
    tags = student.data.tags
    assert tags["mlflow.parentRunId"] == parent.info.run_id
    assert (tags["upstream.normalized"], tags["upstream.normalized.sha256"]) == (data.info.run_id, DIGEST)
    assert "upstream.clean_teacher" not in tags
    assert parent.data.params["distill_student.optimizer.rate"] == "0.1"
    assert parent.data.params["seed"] == "3" and "seed" not in student.data.params
    assert data.data.tags["downstream.distill_student"] == student.info.run_id
    assert tags["git.commit"] == tags["mlflow.source.git.commit"] == parent.data.tags["git.commit"] == "0123abc"
    assert tags["prefect.flow_run"] == parent.data.tags["prefect.flow_run"] == "flow-7"
    assert all((run.data.tags["arm"], run.data.tags["seed"]) == ("pgd", "3") for run in (parent, data, student))
    assert (tags["temper.stage"], tags["dvc.params"]) == ("distill_student", "42")


def _check_records(client, student) -> None:
    run = student.info.run_id
    assert student.data.params["optimizer.rate"] == "0.1"
    assert student.data.params["many.149"] == "149"
    assert "long" not in student.data.params
    assert {file.path for file in client.list_artifacts(run)} == {"params.json", "log.txt"}
    losses = [(metric.step, metric.value) for metric in client.get_metric_history(run, "train/loss")]
    assert losses == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert len(client.get_metric_history(run, "odd _name_")) == 3
    (used,) = student.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", DIGEST[:36])


def _check_first_sight(client, parent) -> None:
    """What a person sees of a pipeline's run without a click: name, description, columns, data set, model."""
    assert (parent.info.run_name, parent.data.tags["epsilon"]) == (TITLE, "51/255")
    run, experiment = parent.info.run_id, parent.info.experiment_id
    text = parent.data.tags["mlflow.note.content"]
    assert text.startswith("**GO**\n\n[Report]")
    assert f"(#/experiments/{experiment}/runs/{run}/artifacts/report/report.html?" in text
    (used,) = parent.inputs.dataset_inputs
    assert (used.dataset.name, used.tags[0].value) == ("digits", "evaluation")
    assert len(parent.outputs.model_outputs) == 1
    assert client.get_experiment(experiment).tags[VIEW_TAG]


def test_two_runs_differ_in_what_was_changed_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"seed": 0, "train": {"epochs": 3, "rate": "1/10"}, "report": {"gallery": 4}}
    for pipeline, seed, stages in (("first", 0, ("train", "report")), ("cached", 1, ("report",))):
        monkeypatch.setenv("TEMPER_PIPELINE", pipeline)
        for stage in stages:
            with Journal.open(stage) as journal:
                journal.params({stage: recipe[stage]}, recipe | {"seed": seed}, "digits")
    monkeypatch.setenv("TEMPER_PIPELINE", "refused")
    with pytest.raises(InputError), Journal.open("train"):
        raise InputError("params.yaml: seed: got -1")
    assert temper(["records", "send"]) == 0
    client = tracking.connect(mlflow_client.place()).client
    (experiment,) = [one for one in client.search_experiments() if one.name == "temper"]
    runs = client.search_runs([experiment.experiment_id])
    told = {run.data.tags["temper.pipeline"]: run for run in runs if run.data.tags["temper.stage"] == "pipeline"}
    one, other = (told[name].data.params for name in ("first", "cached"))
    assert {key for key in one | other if one.get(key) != other.get(key)} == {"seed"}
    assert told["cached"].info.run_name == "digits"
    refused = told["refused"]
    assert refused.data.tags["mlflow.note.content"] == "train: params.yaml: seed: got -1", "why, on the first screen"
    parts = {key for run in runs if run.data.tags["temper.stage"] != "pipeline" for key in run.data.params}
    assert parts == {"train.epochs", "train.rate", "report.gallery"}, "a stage's run has its own section"


def _check_headline(client, parent, report) -> None:
    assert parent.data.metrics == report.data.metrics == {"student/robust_accuracy": 0.7}
    for run in (parent, report):
        assert [file.path for file in client.list_artifacts(run.info.run_id, "report")] == ["report/report.html"]


@pytest.fixture(autouse=True)
def own_place() -> Iterator[None]:
    """Gives MLflow's place back: it is the whole process's, and other tests have stores of their own."""
    yield
    if mlflow := sys.modules.get("mlflow"):
        mlflow.set_tracking_uri(None)


def _check_model(client, uri: str, parent) -> None:
    import mlflow

    (version,) = client.search_model_versions("name = 'temper-student'")
    assert (version.run_id, version.tags["robust_accuracy"]) == (parent.info.run_id, "0.7")
    assert version.description == "**GO**: 70.0 % (n = 359)"
    assert client.get_registered_model("temper-student").description == "hardened"
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(f"models:/temper-student/{version.version}")
    images = np.random.default_rng(1).random((5, 1, 8, 8), dtype=np.float32)
    with torch.inference_mode():
        expected = load_model("student.safetensors")[0](torch.from_numpy(images)).numpy()
    assert np.array_equal(loaded.predict(images), expected), "the same logits, bit for bit"
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert not [path for path in Path("mlartifacts").rglob("*") if path.suffix in (".pkl", ".pickle")]


@pytest.mark.slow
def test_a_killed_stage_is_killed_until_it_finishes(project: Path) -> None:
    write = "from components.tracking.journal import Journal; import os; journal = Journal.open('train'); "
    write += "journal.metrics({'loss': 1.0}, step=0); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", write], check=False)
    connection = tracking.connect(mlflow_client.place())
    temper(["records", "send"])
    runs = runs_of(connection.client)
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    with Journal.open("train") as journal:
        journal.metrics({"loss": 1.0}, step=0)
        journal.metrics({"loss": 0.5}, step=1)
        temper(["records", "send"])
        assert {run.info.status for run in runs_of(connection.client).values()} == {"RUNNING"}
    temper(["records", "send"])
    after = runs_of(connection.client)
    assert {name: run.info.run_id for name, run in after.items()} == {n: run.info.run_id for n, run in runs.items()}
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    history = connection.client.get_metric_history(after["train"].info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 1.0), (1, 0.5)]


@pytest.mark.slow
def test_no_server_is_said_once_and_sent_later(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("TEMPER_TRACKING")
    started = time.monotonic()
    with Journal.open("train") as journal:
        journal.metrics({"loss": 1.0}, step=0)
    assert time.monotonic() - started < 10
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert uri in said
    assert SEND_LATER in said
    assert not is_sent(journal.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert temper(["records", "send"]) == 0
    assert is_sent(journal.path)
    assert (project / "other.db").exists()
    assert not (project / "mlflow.db").exists()


@pytest.mark.slow
def test_a_stage_that_is_a_containers_main_process_sends_all(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(project)
    for stage in ("fetch_data", "normalize_data"):
        subprocess.run([sys.executable, "-m", f"components.stages.{stage}"], check=True)
    monkeypatch.delenv("TEMPER_TRACKING")
    stage = [sys.executable, "-m", "components.stages.train_clean_teacher"]
    assert run_as_main_process(stage) == (0, "")
    client = tracking.connect(mlflow_client.place()).client
    run = runs_of(client)["train_clean_teacher"]
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train_loss")] == [1, 2]
    assert run.data.metrics["cost_seconds"] > 0
    assert run.data.params["train_clean_teacher.recipe.epochs"] == "2"
    assert "git.commit" in run.data.tags and "produced.clean_teacher" in run.data.tags
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"params.json", "log.txt", "clean_teacher.csv"} <= files


def run_as_main_process(command: list[str]) -> tuple[int, str]:
    """Exit status and stderr of a command; with it ends its namespace, or its process group where there are none."""
    if shutil.which("unshare") and subprocess.run([*NAMESPACE, "true"], check=False).returncode == 0:
        command = [*NAMESPACE, *command]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        _, said = process.communicate(timeout=120)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


STOPPED = """
import sys, time
from components.foundation.process import as_process
from components.tracking.journal import Journal
with as_process("train"), Journal.open("train") as journal:
    journal.note("ready")
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_stage_that_is_told_to_stop_is_killed_in_mlflow_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPER_TRACKING")
    tracking.connect(mlflow_client.place())  # makes the database, which takes longer than a stage that is killed waits
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as stage:
        assert stage.stdout is not None and stage.stdout.readline() == "ready\n"
        began = time.monotonic()
        stage.terminate()
        assert stage.wait(30) == 143
    assert time.monotonic() - began < KILLED_SECONDS + 3
    (path,) = Path(".temper/journals").glob("*/train.jsonl")
    assert Reader(path).new()[-1][1]["status"] == "KILLED"
    temper(["records", "send"])
    assert {run.info.status for run in runs_of(tracking.connect(mlflow_client.place()).client).values()} == {"KILLED"}


def test_a_tracker_that_hangs_holds_a_stage_no_longer_than_its_limit(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("components.tracking.journal.SEND_SECONDS", 1)
    monkeypatch.delenv("TEMPER_TRACKING")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with Journal.open("train") as journal:
            pass
        assert time.monotonic() - began < 4
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert f"not all is sent after 1 s; the records are kept, send them later: {SEND_LATER}" in said
    assert not is_sent(journal.path)


@pytest.fixture
def server(project: Path) -> Iterator[str]:
    """A real MLflow server on a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{project / 'server.db'}"]
    command += ["--artifacts-destination", str(project / "served")]
    with (project / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _await(lambda: _answers(port), 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.mark.slow
def test_a_real_server(server: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    write_student()
    evaluation = write_evaluation(project / "evaluation", outcomes(40))
    record_evaluation(evaluation, DIGEST)
    run_pipeline()
    assert temper(["records", "send"]) == 0
    client = mlflow.MlflowClient(server)
    runs = runs_of(client)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    _check_records(client, runs["distill_student"])
    _check_headline(client, runs["pipeline"], runs["report"])
    _check_model(client, server, runs["pipeline"])
    assert list((project / "served").rglob("report.html"))
    fetch(client, resolve(client, runs["pipeline"].info.run_id), project / "fetched")
    for file in evaluation.iterdir():
        assert (project / "fetched" / file.name).read_bytes() == file.read_bytes()
    assert not (project / "mlflow.db").exists()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _await(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)
