"""What is trained, and how fast: learning rates by layer, and layers that wait at the beginning."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, TypeVar

from pydantic import Field
from torch import Tensor, nn

from components.foundation.params import Real, Whole, strict
from components.methods.parts.contract import Method
from components.models.parts.blocks import blocks_of
from components.optimizers.parts.optimizer import Group

T = TypeVar("T", bound=Tensor)


@strict
class Layers:
    """How the layers of a network that is trained further differ, from the input to the head.

    The blocks are those of `models/parts/blocks.py`, in the order in which the network's modules were made. Their rates
    are those of Clark et al. (ELECTRA, arXiv 2003.10555): the head has the whole rate, a block `decay` times that of
    the next one. Until epoch `frozen_epochs` nothing but the head moves, and batch norm in front of it uses its running
    statistics and keeps them.
    """

    decay: Annotated[Real, Field(gt=0, le=1)]  # The rate of a block, as a share of that of the next; 1: all alike.
    frozen_epochs: Whole  # Epochs at the beginning in which the head alone moves.


def trained_parameters(model: nn.Module, method: Method) -> dict[str, nn.Parameter]:
    """What one optimizer moves, by name: the model's parameters, and those of the method's companions."""
    companions = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
    return dict(model.named_parameters()) | by_layer(method, companions)


def groups_of(model: nn.Module, method: Method, layers: Layers | None) -> list[Group]:
    """The same in groups of one rate, the head's first; companions have the whole rate."""
    named = trained_parameters(model, method)
    if layers is None or layers.decay == 1:
        return [Group(list(named.values()))]
    groups: list[Group] = []
    for depth, block in enumerate(reversed(blocks_of(model))):
        groups.append(Group([named.pop(name) for name in block.names], layers.decay**depth))
    return [*groups, Group(list(named.values()))]


@contextmanager
def waiting(model: nn.Module, layers: Layers | None, epoch: int) -> Iterator[None]:
    """Inside the block, which is an epoch of training counted from 0, the layers that wait get no gradient.

    They are in evaluation mode. Modes are for the caller to set again; which parameters get gradients is restored.
    """
    if layers is None or epoch >= layers.frozen_epochs:
        yield
        return
    *others, head = blocks_of(model)
    named = dict(model.named_parameters())
    held = [named[name] for block in others for name in block.names if named[name].requires_grad]
    model.eval()
    for module in head.modules:
        module.train()
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def by_layer(method: Method, named: Mapping[str, T]) -> dict[str, T]:
    """`named` after a method's own tensors -> the same after the layer of each, wherever that layer is at present.

    So they are found again after a change that wraps the method in something else, or in nothing.
    """
    layers = method.layers()
    return {".".join(layer_of(layers, name)): tensor for name, tensor in named.items()}


def layer_of(layers: dict[str, str], name: str) -> tuple[str, str]:
    """The layer that a tensor belongs to, the innermost whose prefix its name has, and its name there."""
    kind, prefix = next((kind, prefix) for kind, prefix in reversed(layers.items()) if name.startswith(prefix))
    return kind, name.removeprefix(prefix)
