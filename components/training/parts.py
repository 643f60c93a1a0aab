"""The losses of the parts of a batch, one after the other, so that memory holds one of them at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from components.data.batch import Batch
from components.methods.parts.contract import Crafting, Loss, Method
from components.numerics.compute import Precision, training_arithmetic
from components.numerics.random_numbers import Part
from components.threats.parts.threat import Threat

Cut = Sequence[tuple[Batch, Part]]
"""The parts of a batch, each with what it draws from."""


def losses_of_parts(model: nn.Module, method: Method, cut: Cut, threat: Threat, precision: Precision) -> Iterator[Loss]:
    """The loss of each part, with its graph, made once the one before has been used.

    A method that takes stock of the whole batch attacks all parts first and looks at them.
    """
    if len(cut) == 1 or not method.surveys:
        for batch, rng in cut:
            with training_arithmetic(batch.images.device, precision):
                loss = method.loss(model, batch, threat, rng)
            yield loss
        return
    assert isinstance(method, Crafting), f"{method} takes stock of attacked images, and attacks them apart"
    with training_arithmetic(cut[0][0].images.device, precision):
        crafted = [(batch, method.craft(model, batch, threat, rng)) for batch, rng in cut]
        with torch.no_grad():
            method.survey(model, crafted)
    try:
        for batch, images_adv in crafted:
            with training_arithmetic(batch.images.device, precision):
                loss = method.objective(model, batch, images_adv)
            yield loss
    finally:
        method.survey(model, [])
