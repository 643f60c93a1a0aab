"""docker/: the files hold together, and the scripts in them run, outside a container, in an empty folder."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DIGEST = "@sha256:[0-9a-f]{64}"
BIN = Path(sys.executable).parent
PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"


def program(name: str) -> str:
    """The path of a program beside the interpreter or on the PATH; skips the test where there is none."""
    found = shutil.which(name, path=PATH)
    return found or pytest.skip(f"{name} is not installed")


def run(command: list[str], folder: Path, user: str | None = None, **environment: str) -> subprocess.CompletedProcess:
    """A finished process that saw nothing of our environment but the PATH."""
    env = {"PATH": PATH, "HOME": str(folder), "DO_NOT_TRACK": "1"} | environment
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, user=user)


# ---- the files hold together ----


def test_hadolint() -> None:
    done = run([program("hadolint"), "--failure-threshold", "style", "Dockerfile"], DOCKER)
    assert done.returncode == 0, done.stdout


def test_image_runs_without_root_from_a_pinned_base() -> None:
    base = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert base and all(re.fullmatch(rf"python:3\.\d+\.\d+-[\w.-]+{DIGEST}", image) for image in base)
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1] == "1000:1000"


@pytest.mark.parametrize("name", SERVICES)
def test_service(name: str) -> None:
    service = SERVICES[name]
    one_shot = service["restart"] == "no" and service["profiles"]
    assert one_shot or service["healthcheck"]["test"][0] == "CMD"
    content = "" if name in OURS else DIGEST
    assert re.fullmatch(rf"[\w/-]+:\d+\.\d+[\w.-]*{content}", service["image"]), "no pinned version and content"
    assert service.get("user", "postgres") == "postgres" and (name in OURS or "user" in service)
    assert service["cap_drop"] == ["ALL"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert re.fullmatch(r"\$\{\w+_MEMORY:-\d+g\}", service["mem_limit"]) and service["pids_limit"] > 0
    for needed in service.get("depends_on", {}).items():
        assert needed[1] == {"condition": "service_healthy"} and "healthcheck" in SERVICES[needed[0]]
    for mount in service.get("volumes", []):
        assert mount.split(":")[0] in COMPOSE["volumes"], "neither a host path nor an unknown volume"
    for port in service.get("ports", []):
        assert name != "database" and port.startswith("127.0.0.1:")


def test_every_mounted_folder_belongs_to_the_user() -> None:
    made = next(line for line in DOCKERFILE.splitlines() if "mkdir -p" in line).split()
    folders = {
        mount.split(":")[1].removeprefix("/temper/") for name in OURS for mount in SERVICES[name].get("volumes", [])
    }
    assert folders <= set(made)


def test_what_stages_read_is_in_the_image_and_what_they_write_in_a_volume() -> None:
    if not (ROOT / "dvc.yaml").exists():
        pytest.skip("there is no dvc.yaml")
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    stages = [stage.get("do", stage) for stage in stages]
    written = {
        name for stage in stages for kind in ("outs", "metrics", "plots") for name in entries(stage.get(kind, []))
    }
    # Images and weights of one's own are mounted by whoever has some.
    read = {name for stage in stages for name in entries(stage["deps"]) if not name.endswith("files}")} - written
    mounts = [mount.split(":")[1].removeprefix("/temper/") for mount in SERVICES["stage"]["volumes"]]
    assert not [name for name in written if name.split("/")[0] not in mounts]
    assert not [name for name in read | {"dvc.yaml", "params.yaml"} if not in_context(name)]


def entries(items: list[Any]) -> list[str]:
    """Paths of a list of dvc.yaml, where an entry is a path or a mapping from it to its options."""
    return [item if isinstance(item, str) else next(iter(item)) for item in items]


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a path into the build; its first rule keeps everything out."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    return any(path == rule[1:] or path.startswith(rule[1:] + "/") for rule in rules if rule[0] == "!")


def test_context_holds_what_is_copied_and_no_password() -> None:
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()]
    assert not [name for name in copied if not name.startswith("--") and name != "." and not in_context(name)]
    assert not [
        name for name in (".git/config", "docker/.env", ".dvc/config.local", "data/raw.safetensors") if in_context(name)
    ]


def test_env_example_names_every_variable_and_no_password() -> None:
    text = (DOCKER / "env.example").read_text()
    example = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
    used = dict(re.findall(r"\$\{(\w+):(.)", (DOCKER / "compose.yaml").read_text()))
    assert set(example) == set(used) - {"STAGE"}
    assert not [name for name, operator in used.items() if (operator == "?") != name.endswith("PASSWORD")]
    assert not [name for name, value in example.items() if value and name.endswith("PASSWORD")]


def test_prefect_takes_its_own_pages_and_who_knows_the_password() -> None:
    from prefect.settings.models.server.api import ServerAPISettings

    with pytest.MonkeyPatch.context() as patch:
        for name, value in SERVICES["prefect"]["environment"].items():
            patch.setenv(name, re.sub(r"\$\{(\w+):[-?]([^}]*)\}", lambda found: f"<{found[1]}>", value))
        settings = ServerAPISettings()
    assert settings.cors_allowed_origins == "http://localhost:<PREFECT_PORT>,http://127.0.0.1:<PREFECT_PORT>"
    assert settings.auth_string is not None
    assert settings.auth_string.get_secret_value() == "temper:<PREFECT_API_PASSWORD>"
    for name in ("worker", "stage"):
        given = SERVICES[name]["environment"]["PREFECT_API_AUTH_STRING"]
        assert given == SERVICES["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]


def test_mlflow_names_the_database_driver_that_the_image_has() -> None:
    """Without a name SQLAlchemy takes its default driver, which changed in 2.1."""
    option = next(word for word in SERVICES["mlflow"]["command"] if word.startswith("--backend-store-uri="))
    driver = re.fullmatch(r"--backend-store-uri=postgresql\+(\w+)://.+", option)
    assert driver and re.search(rf"(?m)^{driver[1]}-binary==", (DOCKER / "requirements.lock").read_text())


def test_gpu_file_extends_services_that_exist() -> None:
    gpu = yaml.safe_load((DOCKER / "compose.cuda.yaml").read_text())["services"]
    assert set(gpu) == {"worker", "stage"} <= set(SERVICES)
    assert all(service["deploy"]["resources"]["reservations"]["devices"] for service in gpu.values())


# ---- the scripts ----


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two stages, and beside them a module of theirs that is none."""
    modules = tmp_path / "components" / "stages"
    modules.mkdir(parents=True)
    for name in ("__init__", "fetch_data", "report", "resume"):
        (modules / f"{name}.py").write_text(f"print('ran {name}')" if name != "__init__" else "")
    boxes = {name: {"cmd": f"python -m components.stages.{name}"} for name in ("fetch_data", "report")}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": boxes}))
    return tmp_path


def test_entrypoint(workspace: Path) -> None:
    entrypoint = ["sh", str(DOCKER / "entrypoint.sh")]
    assert run(entrypoint, workspace, STAGE="report").stdout == "ran report\n"
    assert run([*entrypoint, "echo", "two words"], workspace, STAGE="report").stdout == "two words\n"
    for given in ("", "reprot", "resume", "__init__", "../../etc", "fetch_data report"):
        done = run(entrypoint, workspace, STAGE=given)
        assert (done.returncode, done.stderr) == (2, f"STAGE={given}: allowed are fetch_data report\n")


def test_entrypoint_knows_the_stages(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert run(["sh", str(DOCKER / "entrypoint.sh")], tmp_path).stderr == f"STAGE=: allowed are {' '.join(stages)}\n"


def wheel(index: Path, name: str, version: str) -> str:
    """The SHA-256 of an empty package that was put into a folder laid out like a package index."""
    stem = f"{name.replace('-', '_')}-{version}"
    file = index / name / f"{stem}-py3-none-any.whl"
    file.parent.mkdir(parents=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    (file.parent / "index.html").write_text(f'<a href="{file.name}">{file.name}</a>')
    return hashlib.sha256(file.read_bytes()).hexdigest()


LOCKED = {"numpy": "2.1", "nvidia-nccl-cu13": "2.3", "torch": "2.15.0", "torchvision": "0.29.2", "triton": "3.9"}


@pytest.fixture
def indexes(tmp_path: Path) -> Path:
    hashes = {name: wheel(tmp_path / "registry", name, version) for name, version in LOCKED.items()}
    for name in ("torch", "torchvision"):
        wheel(tmp_path / "cpu", name, f"{LOCKED[name]}+cpu")
    lock = [f"{name}=={LOCKED[name]} \\\n    --hash=sha256:{hashes[name]}\n    # via torch\n" for name in LOCKED]
    (tmp_path / "requirements.lock").write_text("".join(lock))
    return tmp_path


def installed(folder: Path, **arguments: str) -> dict[str, str] | str:
    """Name to version of what install.sh put into a new environment; what it said where it failed."""
    uv = program("uv")
    where = {"VIRTUAL_ENV": str(folder / "new"), "UV_DEFAULT_INDEX": (folder / "registry").as_uri(), "UV_NO_CACHE": "1"}
    assert run([uv, "venv", "--clear", "--python", sys.executable, "new"], folder).returncode == 0
    done = run(["sh", str(DOCKER / "install.sh")], folder, **where, **arguments)
    listed = run([uv, "pip", "freeze"], folder, **where).stdout.split()
    return dict(line.split("==") for line in listed) if done.returncode == 0 else done.stderr


def test_install_cuda_takes_the_lock_as_it_is(indexes: Path) -> None:
    assert installed(indexes, ACCELERATOR="cuda") == LOCKED


def test_install_cpu_takes_torch_from_the_second_index_and_nothing_for_cuda(indexes: Path) -> None:
    expected = {"numpy": "2.1", "torch": "2.15.0+cpu", "torchvision": "0.29.2+cpu"}
    assert installed(indexes, ACCELERATOR="cpu", TORCH_INDEX=(indexes / "cpu").as_uri()) == expected


def test_install_refuses(indexes: Path) -> None:
    assert "needs the build argument TORCH_INDEX" in installed(indexes, ACCELERATOR="cpu", TORCH_INDEX="")
    assert installed(indexes, ACCELERATOR="tpu") == "ACCELERATOR=tpu: allowed are cpu and cuda\n"
    lock = indexes / "requirements.lock"
    whole = lock.read_text()
    lock.write_text(re.sub(r"sha256:\w{8}", "sha256:00000000", whole, count=1))
    assert "Hash mismatch" in installed(indexes, ACCELERATOR="cuda")
    lock.write_text(re.sub(r" \\\n.+", "", whole, count=1))
    assert "--require-hashes" in installed(indexes, ACCELERATOR="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("command", re.findall(r"^RUN (pip install .+)$", DOCKERFILE, re.MULTILINE))
def test_installer_line_of_the_dockerfile(command: str, tmp_path: Path) -> None:
    if run([sys.executable, "-m", "pip", "index", "versions", "pip"], tmp_path).returncode:
        pytest.skip("no package registry in reach")
    shutil.copytree(DOCKER, tmp_path / "docker")
    done = run([sys.executable, "-m", *command.split(), "--dry-run", "--ignore-installed"], tmp_path)
    assert done.returncode == 0 and "psycopg2-binary" in done.stdout and "uv-" in done.stdout, done.stderr
