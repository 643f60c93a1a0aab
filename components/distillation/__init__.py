"""Adversarial distillation: `DISTILLATIONS[name](**fields).build(...)` -> a training method of one or two teachers."""

from components.distillation.b_mtard import BMtard
from components.distillation.kd_swa import KdSwa
from components.distillation.rslad import Rslad
from components.methods.parts.contract import Fields

DISTILLATIONS: dict[str, type[Fields]] = {"b_mtard": BMtard, "kd_swa": KdSwa, "rslad": Rslad}
