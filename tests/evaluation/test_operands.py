"""No operator that a program may use reads or writes outside of its arguments, whatever they are."""

import subprocess
import sys

import pytest

from tests.parts.operator_calls import WRONG
from tests.parts.pipeline_files import ROOT, environment


def carried_out(*arguments: str, ends_well: bool = True) -> list[str]:
    """The calls of `operator_calls` in a process of their own, and what is said of each."""
    command = [sys.executable, "-m", "tests.parts.operator_calls", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, errors="replace")
    lines = ended.stdout.splitlines()
    assert not ends_well or ended.returncode == 0, f"{ended.returncode} after {lines[-1]}: {ended.stderr[-500:]}"
    return lines


def wrong(lines: list[str]) -> list[str]:
    return [line for line in lines if WRONG in line]


def test_every_operator_answers_from_its_arguments_or_is_refused() -> None:
    lines = carried_out("0")
    assert not wrong(lines), wrong(lines)[:10]
    assert len(lines) > 4000


@pytest.mark.slow
def test_operators_that_are_wrong_in_two_arguments() -> None:
    lines = carried_out("20")
    assert not wrong(lines), wrong(lines)[:10]


@pytest.mark.parametrize("key", ["_native_batch_norm_legit_no_training.default", "as_strided.default"])
def test_what_torch_itself_does_not_check_is_noticed(key: str) -> None:
    """Were nothing ever noticed, the tests above would show nothing."""
    assert len(wrong(carried_out("0", f"unchecked:{key}", ends_well=False))) >= 5
