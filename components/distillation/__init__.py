"""Adversarial distillation: `DISTILLATIONS[name](**fields).taught_by(clean_teacher, robust_teacher)` -> a method."""

from typing import Protocol

from torch import nn

from components.distillation.b_mtard import BMtard
from components.distillation.kd_swa import KdSwa
from components.methods.parts.contract import Method


class Distillation(Protocol):
    """A recipe that becomes a training method once it has its teachers (frozen, in evaluation mode)."""

    def taught_by(self, clean_teacher: nn.Module, robust_teacher: nn.Module) -> Method: ...


DISTILLATIONS: dict[str, type[Distillation]] = {"b_mtard": BMtard, "kd_swa": KdSwa}
