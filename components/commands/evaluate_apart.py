"""An evaluation in a process of its own, for programs from outside: without secrets, and its death is one line here.

A program is made of torch's operators. A mistake in one of them would be the file's to use, so the process that runs
them knows no password, no token and no address of a server: of the environment it gets what names no secret.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter

from components.commands.evaluate_options import EvaluateOptions, named_models
from components.evaluation.outside.models import PROGRAM
from components.foundation.errors import InputError

# What torch, CUDA, the interpreter and this project read. Nothing that the list does not name is passed on.
PASSED_ON = frozenset({"PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "LD_LIBRARY_PATH", "VIRTUAL_ENV"})
PASSED_ON_FAMILIES = ("LC_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "PYTHON")
# How long a process that is told to end has for it.
END_SECONDS = 10


def evaluate_apart(given: EvaluateOptions, files: Mapping[str, Path], note: Callable[[str], None]) -> None:
    """Evaluates in another process, which writes the results; its lines go to `note`.

    Args:
        given: what is asked for.
        files: each model's file on this machine.
        note: gets each line.

    Errors: the line that it ends with; how it died, with the programs' names.
    """
    told = [TypeAdapter(kind).dump_json(value).decode() for kind, value in _message(given, files)]
    command = [sys.executable, "-m", "components.commands.evaluate_child", *told]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        status = _run(command, errors, note)
        errors.seek(0)
        said = errors.read().split("\n")
    if status:
        raise InputError(_ended(", ".join(_programs(given, files)), status, [line for line in said if line.strip()]))


def environment_without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Of an environment the variables that a computation needs."""
    names = (name for name in environment if name in PASSED_ON or name.startswith(PASSED_ON_FAMILIES))
    return {name: environment[name] for name in names} | {
        # Data was loaded where the network may be used, and nothing is recorded from here.
        "TEMPER_TRACKING": "off",
        **({"TEMPER_DATA": environment["TEMPER_DATA"]} if "TEMPER_DATA" in environment else {}),
    }


def _run(command: list[str], errors: IO[str], note: Callable[[str], None]) -> int:
    environment = environment_without_secrets(os.environ)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
    with subprocess.Popen(command, env=environment, errors="replace", **pipes) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                note(line.rstrip("\n"))
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def _message(given: EvaluateOptions, files: Mapping[str, Path]) -> list[tuple[Any, Any]]:
    return [(EvaluateOptions, replace(given, track=False)), (dict[str, Path], dict(files))]


def _programs(given: EvaluateOptions, files: Mapping[str, Path]) -> list[str]:
    references = named_models(given.model)
    return [references[name] for name, path in files.items() if path.suffix == PROGRAM]


def _ended(names: str, status: int, said: list[str]) -> str:
    """The one line on an end that is none of success."""
    if status < 0:
        reason = ", out of memory?" if -status == signal.SIGKILL else ""
        return f"{names}: the process that ran it was killed by {signal.Signals(-status).name}{reason}"
    last = said[-1] if said else f"exit status {status}"
    return last.removeprefix("error: ") if last.startswith("error: ") else f"{names}: could not be evaluated: {last}"
