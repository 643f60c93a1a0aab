"""Programs from outside run in a process that knows no secret, and whose death is one line."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.commands.evaluate_apart import environment_without_secrets, evaluate_apart
from components.commands.evaluate_options import EvaluateOptions
from components.foundation.errors import InputError

GIVEN = EvaluateOptions(model=["mine=models:/mine/3", "ours=ours.safetensors"], data="d", track=True)
FILES = {"mine": Path("fetched.pt2"), "ours": Path("ours.safetensors")}
SECRETS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "PREFECT_API_KEY",
    "HF_TOKEN",
    "GITHUB_TOKEN",
    "HTTPS_PROXY",
    "SSH_AUTH_SOCK",
    "DATABASE_URL",
    "TEMPER_PIPELINE",
    "ANY_NAME_AT_ALL",
)


@pytest.fixture
def instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has a shell script run in place of the interpreter."""

    def put(script: str) -> None:
        path = tmp_path / "interpreter"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return put


def test_no_secret_reaches_the_process(instead, tmp_path, monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "geheim")
    monkeypatch.setenv("TEMPER_DATA", "/data")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    instead(f"env > {tmp_path}/environment; echo one line; echo another")
    lines: list[str] = []
    evaluate_apart(GIVEN, FILES, lines.append)
    environment = (tmp_path / "environment").read_text()
    assert lines == ["one line", "another"] and "geheim" not in environment
    assert "TEMPER_DATA=/data" in environment and "CUDA_VISIBLE_DEVICES=3" in environment


def test_only_named_variables_are_passed_on():
    given = {"PATH": "a", "OMP_NUM_THREADS": "1", "PATH_TOKEN": "b", "MY_PATH": "c", "LC_ALL": "C", "path": "d"}
    assert environment_without_secrets(given) == {
        "PATH": "a",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C",
        "TEMPER_TRACKING": "off",
    }


@pytest.mark.parametrize("number", ["SEGV", "KILL", "ABRT", "BUS", "FPE", "ILL"])
def test_a_process_that_dies_is_one_line_with_the_programs_name(instead, number):
    instead(f"echo noise >&2; echo more >&2; kill -{number} $$")
    with pytest.raises(InputError) as refused:
        evaluate_apart(GIVEN, FILES, print)
    memory = ", out of memory?" if number == "KILL" else ""
    assert str(refused.value) == f"models:/mine/3: the process that ran it was killed by SIG{number}{memory}"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'error: --data: no' >&2; exit 2", "--data: no"),
        ("echo noise >&2; echo 'error: x.pt2: no' >&2; exit 2", "x.pt2: no"),
        ("echo Traceback >&2; echo 'RuntimeError: bad' >&2; exit 1", "could not be evaluated: RuntimeError: bad"),
        ("exit 7", "could not be evaluated: exit status 7"),
    ],
)
def test_any_other_end_is_one_line_too(instead, script, said):
    instead(script)
    with pytest.raises(InputError) as refused:
        evaluate_apart(GIVEN, FILES, print)
    assert str(refused.value).removeprefix("models:/mine/3: ") == said


def test_it_ends_with_the_one_that_waits_for_it(instead, tmp_path):
    instead(f"echo $$ > {tmp_path}/number; echo begun; exec sleep 600")

    def stop(line: str) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    began = time.monotonic()
    with pytest.raises(SystemExit):
        evaluate_apart(GIVEN, FILES, stop)
    assert time.monotonic() - began < 10
    assert not Path(f"/proc/{int((tmp_path / 'number').read_text())}").exists()
