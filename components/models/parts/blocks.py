"""A network as a row of blocks from the input to the head, for rates and weights that differ by place.

The order is the one in which the network's modules were made. A bare `Sequential` or `ModuleList` stands for what is in
it, and so does the network itself; every other module with parameters is one block. What holds nothing but vectors, as
normalisation does, belongs to the block before it. Parameters outside of any module, such as a class token, belong to
the first block. The last block is the head.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList)


class Block(NamedTuple):
    """Modules that follow each other, and the names of their parameters in the network."""

    modules: list[nn.Module]
    names: list[str]


def blocks_of(network: nn.Module) -> list[Block]:
    """The blocks of a network, the input's first, the head last; every parameter is in one of them."""
    named = dict(network.named_parameters())
    blocks: list[Block] = []
    for prefix, module in _rows(network, ""):
        names = [f"{prefix}{name}" for name, _ in module.named_parameters() if f"{prefix}{name}" in named]
        if not names:
            continue  # its parameters are shared with a module before it
        if blocks and all(named[name].ndim <= 1 for name in names):
            blocks[-1].modules.append(module)
            blocks[-1].names.extend(names)
        else:
            blocks.append(Block([module], names))
    within = {name for block in blocks for name in block.names}
    outside = [name for name in named if name not in within]
    if not blocks:
        return [Block([network], outside)]
    blocks[0].names.extend(outside)
    return blocks


def _rows(module: nn.Module, prefix: str, alone: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a network is a row of, with what the names of their parameters begin with.

    `alone`: nothing stands beside this module, so it is the network, or what wraps it.
    """
    children = [(f"{prefix}{name}.", one) for name, one in module.named_children() if list(one.parameters())]
    if not children or not (alone or type(module) in CONTAINERS):
        yield prefix, module
    else:
        for inner, child in children:
            yield from _rows(child, inner, alone and len(children) == 1)
