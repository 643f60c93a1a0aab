"""Every way of computing a step against the golden float64 ones, each to the tolerance that stands in one table.

A change that is meant to change what a method computes writes them anew: `python benchmarks/golden_steps.py --write`.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.golden_steps import BEGIN, END, PAGE
from components.numerics.tensor_files import read_tensors
from tests.parts.golden_steps import (
    CASES,
    GOLDEN,
    NOT_CAPTURED,
    Deviation,
    captured_steps,
    compiled_steps,
    deviation,
    golden,
    steps,
)
from tests.parts.processes import together

MOST_BYTES = 410 * 1024


class Tolerance(NamedTuple):
    """What a way of computing may differ by, and how far off a pixel is that counts."""

    most: Deviation
    off: float


EXACT = Tolerance(Deviation(loss=1e-12, gradient=1e-12, weights=1e-12, pixels=0), off=1e-12)
# How far a way of computing may lie from the golden steps.
TOLERANCES = {
    "float64": EXACT,
    "float32": Tolerance(Deviation(loss=1e-5, gradient=1e-5, weights=1e-6, pixels=0), off=1e-6),
    "bfloat16": Tolerance(Deviation(loss=1e-2, gradient=0.2, weights=0.01, pixels=0.05), off=1e-3),
    "captured": EXACT,
    "compiled": EXACT,
    "two processes": EXACT,
}
# These attack up a divergence from a start that is 0.001 away, less than bfloat16 resolves of a bright pixel: it takes
# the first gradient farther out, where it is nearly the same.
FAINT_START = {"trades", "lbgat", "hat", "smoothed_trades"}
FAINT = Tolerance(Deviation(loss=1e-2, gradient=0.3, weights=0.01, pixels=0.35), off=1e-3)


def replayed(name: str, device: str = "cpu") -> dict[str, Tensor]:
    """The second step comes from a recording, where the method allows it."""
    found, reason = captured_steps(name, device=device)
    assert NOT_CAPTURED[name] in reason if name in NOT_CAPTURED else reason == "", (name, reason)
    return found


WAYS: dict[str, Callable[[str], dict[str, Tensor]]] = {
    "float64": steps,
    "float32": lambda name: steps(name, torch.float32),
    "bfloat16": lambda name: steps(name, torch.float32, "bfloat16"),
    "captured": replayed,
}


# A compiler's graphs cannot be differentiated twice, which these do.
NOT_COMPILED = {"gradalign"}
# One of each kind, in seconds: attack and loss, a start of its own, the weights of other places, a teacher.
COMPILED_QUICKLY = ("pgd_at", "fgsm_rs", "awp", "rslad")


def require_near(way: str, name: str, found: dict[str, Tensor]) -> None:
    allowed = FAINT if way == "bfloat16" and name in FAINT_START else TOLERANCES[way]
    apart = deviation(found, golden(name)[0], allowed.off)
    for what, number, most in zip(Deviation._fields, apart, allowed.most, strict=True):
        assert number <= most, (way, name, what, number, most)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_a_step_is_the_golden_one(way, name):
    require_near(way, name, WAYS[way](name))


COMPILED = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in COMPILED_QUICKLY else pytest.mark.slow) for name in CASES]
)


@COMPILED
def test_a_compiled_step_is_the_golden_one(name):
    found, reason = compiled_steps(name)
    assert ("double backward" in reason) == (name in NOT_COMPILED)
    if not reason:
        require_near("compiled", name, found)


def test_two_processes_take_the_golden_steps(tmp_path):
    together(["-m", "tests.parts.golden_steps", str(tmp_path), *CASES])
    for name in CASES:
        require_near("two processes", name, read_tensors(tmp_path / f"{name}.safetensors")[0])


@pytest.mark.parametrize("name", CASES)
def test_a_golden_step_is_that_of_one_method_alone(name):
    """A file that another method's step would pass holds nothing. The two that mix batches differ by a coin alone."""
    twins = {"mixed", "ensemble_at"}
    others = [other for other in CASES if other != name and not {name, other} <= twins]
    near = [other for other in others if deviation(golden(other)[0], golden(name)[0]).gradient < 1e-3]
    assert near == []


def test_the_files_are_small_and_there_is_one_for_each_method():
    files = list(GOLDEN.iterdir())
    assert sorted(file.stem for file in files) == sorted(CASES)
    assert sum(file.stat().st_size for file in files) < MOST_BYTES


def test_the_page_has_a_row_for_each_method():
    rows = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(CASES)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: its random numbers and kernels cannot be compared")
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_takes_the_same_steps_on_average(name, tmp_path: Path):
    """It draws other numbers: the mean first losses of as many seeds agree within five standard errors, and captured
    steps are its own to 1e-9."""
    wanted = golden(name)[1]["first_losses"]
    found = [float(steps(name, device="cuda", seed=seed)["loss"][0]) for seed in range(1, 1 + len(wanted))]
    spread = (statistics.variance(found) + statistics.variance(wanted)) / len(wanted)
    # Of a method that draws nothing, rounding alone is left.
    assert abs(statistics.mean(found) - statistics.mean(wanted)) <= 5 * spread**0.5 + 1e-9
    plain = steps(name, device="cuda")
    assert max(deviation(replayed(name, "cuda"), plain)[:3]) <= 1e-9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: inductor's kernels for one cannot be compared")
@COMPILED
def test_a_gpu_takes_the_same_steps_by_kernels_of_inductor(name):
    found, reason = compiled_steps(name, "cuda", "inductor")
    assert ("double backward" in reason) == (name in NOT_COMPILED)
    assert reason or max(deviation(found, steps(name, device="cuda"))[:3]) <= 1e-9
