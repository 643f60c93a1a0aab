"""The services of docker/compose.yaml start as written, in an empty folder without a container, and turn healthy."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.project.test_docker import DOCKER, OURS, PATH, SERVICES, program, run

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(name: str, folder: Path, replace: dict[str, str], **environment: str) -> Iterator[None]:
    """Runs a service's command as written, but for addresses that only a container has, until its own check passes."""
    service = SERVICES[name]
    replace = {"0.0.0.0": "127.0.0.1", **replace}
    command = [rewritten(word, replace) for word in service["command"]]
    check = [rewritten(word, replace) for word in service["healthcheck"]["test"][1:]]
    env = {"PATH": PATH, "HOME": str(folder), "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"} | environment
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            until_healthy(process, check, folder, folder / f"{name}.log")
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def rewritten(word: str, replace: dict[str, str]) -> str:
    for old, new in replace.items():
        word = word.replace(old, new)
    return word


def until_healthy(process: subprocess.Popen[bytes], check: list[str], folder: Path, log: Path) -> None:
    end = time.monotonic() + 150
    while run(check, folder).returncode:
        assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(1)


def status(url: str, host: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Host": host}), timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_mlflow_server_answers_the_worker_and_no_strange_host(tmp_path: Path) -> None:
    program("mlflow")
    port = free_port()
    own = {
        "5000": str(port),
        "postgresql+psycopg2://mlflow@database/mlflow": "sqlite:///mlflow.db",
        "/var/lib/mlflow": ".",
    }
    with serving("mlflow", tmp_path, own, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0"
        seen = {
            host: status(url, host) for host in (f"mlflow:{port}", "localhost:7777", "127.0.0.1:7777", "example.org")
        }
    assert seen == {f"mlflow:{port}": 200, "localhost:7777": 200, "127.0.0.1:7777": 200, "example.org": 403}


def test_prefect_server_and_worker(tmp_path: Path) -> None:
    prefect = program("prefect")
    port, health = free_port(), free_port()
    own = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(tmp_path / "ui")}
    api = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_WORKER_WEBSERVER_PORT": str(health)}
    with (
        serving("prefect", tmp_path, {"4200": str(port)}, **own),
        serving("worker", tmp_path, {"8080": str(health)}, **api),
    ):
        assert status(f"http://127.0.0.1:{port}/v2", f"localhost:{port}") == 200
        assert "process" in run([prefect, "work-pool", "inspect", "temper"], tmp_path, **api).stdout


def test_prefect_knows_every_setting(tmp_path: Path) -> None:
    program("prefect")
    names = {name for name in OURS for name in SERVICES[name].get("environment", {}) if name.startswith("PREFECT_")}
    done = run(
        [sys.executable, "-c", f"import prefect.settings as s; [getattr(s, n) for n in {sorted(names)}]"], tmp_path
    )
    assert len(names) > 5 and done.returncode == 0, done.stderr


PASSWORDS = {"PREFECT_DB_PASSWORD": 'it\'s $1 "x"', "MLFLOW_DB_PASSWORD": "back\\slash:@/"}


@pytest.fixture
def database() -> Iterator[tuple[Path, str | None, int]]:
    """The folder, system user and port of an empty PostgreSQL, which refuses to run as root."""
    control, create = program("pg_ctl"), program("initdb")
    user = "nobody" if os.getuid() == 0 else None
    folder, port = Path(tempfile.mkdtemp(prefix="temper-")), free_port()
    shutil.copy(DOCKER / "databases.sql", folder)
    for path in (folder, folder / "databases.sql"):
        shutil.chown(path, user or os.getuid())
    made = run(
        [create, "-D", "data", "-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256"], folder, user
    )
    assert made.returncode == 0, made.stderr
    started = [control, "-D", "data", "-w", "-l", "log", "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"]
    assert run([*started, "start"], folder, user).returncode == 0, (folder / "log").read_text()
    yield folder, user, port
    run([control, "-D", "data", "-m", "immediate", "stop"], folder, user)
    shutil.rmtree(folder)


def test_databases(database: tuple[Path, str | None, int]) -> None:
    folder, user, port = database
    # the flags with which the database's image runs such a file
    psql = [program("psql"), "-v", "ON_ERROR_STOP=1", "--no-password", "--no-psqlrc", "-p", str(port)]
    local = [*psql, "-h", str(folder), "-U", "postgres", "-f", "databases.sql"]
    assert run(local, folder, user).returncode, "a missing password must stop it"
    assert run(local, folder, user, **PASSWORDS).returncode == 0

    def login(name: str, database: str) -> bool:
        words = [*psql, "-h", "127.0.0.1", "-U", name, "-d", database, "-c", "CREATE TABLE t (n int)"]
        return run(words, folder, user, PGPASSWORD=PASSWORDS[f"{name.upper()}_DB_PASSWORD"]).returncode == 0

    assert login("prefect", "prefect") and login("mlflow", "mlflow")
    assert not login("prefect", "mlflow") and not login("mlflow", "prefect")
