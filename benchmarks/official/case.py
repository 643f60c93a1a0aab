"""What is compared: a training section of a preset with a file of an official repository."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks.official.tape import Step


class Outcome(NamedTuple):
    """The steps of both sides, and numbers that the run had to shorten or replace: (theirs, ours) by name, as they
    stand in the official code and in the preset. `beside`: differences of what is no part of the steps."""

    official: list[Step]
    ours: list[Step]
    constants: dict[str, tuple[Any, Any]]
    beside: Mapping[str, float] = MappingProxyType({})


class Case(NamedTuple):
    """A preset's section, the official file, and what was made equal by hand, in words.

    `run` is given the folder of the repository and the preset. `apart` names what is not compared; `differs` says what
    stays different in training on purpose.
    """

    preset: str
    stage: str
    repository: str
    file: str
    run: Callable[[Path, str], Outcome]
    equalised: tuple[str, ...]
    differs: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


EVERYWHERE = (
    "float64 on one CPU thread, the same tiny network and initial weights, the same batches",
    "draws of the official code are handed to ours",
    "the run is shortened to a few epochs of a few batches, milestones and resets with it",
    "data sets, evaluations, apex and .cuda() of the official script are replaced by nothing",
)
