"""A machine with little installed: stages that send no records and run_preset.py need the core, and jinja2, alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from components.stages import STAGES
from tests.parts.pipeline_files import environment, make_project

# An import of a module that is None here raises, as if it were not installed. The last one takes a second.
ABSENT = ["typer", "click", "pandas", "mlflow", "prefect", "dvc", "scipy"]
WITHOUT = f"import runpy, sys; sys.modules.update(dict.fromkeys({ABSENT})); "
RUN = WITHOUT + (
    "names = sys.argv[1:]; del sys.argv[1:]; "
    "[runpy.run_module(f'components.stages.{name}', run_name='__main__') for name in names]"
)
RESULT = WITHOUT + (
    "from pathlib import Path; from benchmarks.run_preset import one_run, over_seeds; "
    "print(over_seeds([one_run(Path())['accuracies']] * 2)['student/clean']['n'])"
)


def run(folder: Path, program: str, *arguments: str) -> str:
    """What a Python program prints in a process of its own, in such an environment."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_stage(tmp_path: Path) -> None:
    run(make_project(tmp_path), RUN, "fetch_data")
    assert (tmp_path / "data/raw.safetensors").exists()


@pytest.mark.slow
def test_every_stage_and_the_table_over_seeds(tmp_path: Path) -> None:
    run(make_project(tmp_path), RUN, *STAGES)
    assert (tmp_path / "reports/robustness.html").exists()
    assert run(tmp_path, RESULT) == "2\n"
