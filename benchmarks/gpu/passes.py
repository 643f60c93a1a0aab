"""What the training of a student costs, counted: passes through the student and its teachers, forwards and back."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from components.data.batch import Batch
from components.distillation.parts.balance import Ceilings
from components.distillation.parts.teachers import together
from components.foundation.params import Params
from components.methods.parts.contract import needs
from components.numerics.cost import PassCounter
from components.stages import distill_student
from components.stages.training_stage import wrapped


def passes_of(params: Mapping[str, Any], epochs: Iterable[int] | None = None) -> int:
    """How often an image passes through any of the networks while a student is trained, forwards or back: in the whole
    run, or in some of its epochs, which are counted from 0.

    Counted where it happens: a step of each epoch is taken with networks of one layer. A pass of a large teacher counts
    as much as one of its student.
    """
    settings, roles, _ = distill_student.read(Params(params))
    whole = settings.section.recipe.epochs
    offered = {role: together([_network() for _ in names]) for role, names in roles.items()}
    offered |= {"ceilings": Ceilings(robust=1.0, clean=1.0), "student": _network()}
    method = wrapped(settings, settings.method.build(*(offered[name] for name in needs(settings.method))))
    model, rng = _network(), torch.Generator().manual_seed(0)
    batch = Batch.of(torch.rand((2, 1, 2, 2), generator=rng), torch.arange(2))
    counter = PassCounter(model, *method.networks())
    for epoch in range(whole) if epochs is None else epochs:
        method.begin_epoch(epoch)
        method.loss(model, batch, settings.threat, rng).total.backward()
    return sum(counter.take().values()) // len(batch.images)


def _network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
