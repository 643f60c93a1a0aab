"""Position embeddings of transformers, made for images of one size and used for another."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.foundation.errors import InputError
from components.models.parts.state_dicts import State

# As timm and torchvision call them.
NAMES = ("pos_embed", "pos_embedding")


class Tokens(NamedTuple):
    """A learned position for each token: `prefix` of no place in the image, then side x side patches."""

    prefix: int
    side: int


def resampled(state: State, expected: Mapping[str, Tensor], network: nn.Module, where: str) -> tuple[State, list[str]]:
    """Position embeddings of the file at the model's number of patches, and what to tell about it, in lines.

    Bicubic interpolation over the grid of patches, as vision transformers are fine-tuned at another size of images
    (Dosovitskiy et al., arXiv 2010.11929, section 3.2). `network` is that of the model, without its first layer. Error:
    patches that form no square.
    """
    told, found = list[str](), dict(state)
    # timm says how many tokens stand before the patches; torchvision has one, of the class.
    before = getattr(network, "num_prefix_tokens", 1)
    for name, ours in expected.items():
        theirs = state.get(name)
        if theirs is None or name.rpartition(".")[2] not in NAMES or not _longer_or_shorter(theirs, ours):
            continue
        grids = _grids(theirs.shape[1], ours.shape[1], before)
        if grids is None:
            raise InputError(
                f"{where}: {name} has {theirs.shape[1]} positions, the model {ours.shape[1]}, and they form no square "
                f"grids: want weights for images of this size"
            )
        old, new = grids
        found[name] = _interpolated(theirs, old, new)
        told.append(
            f"initial weights: {name} is made for {old.side} x {old.side} patches, and is interpolated to "
            f"{new.side} x {new.side}"
        )
    return found, told


def _longer_or_shorter(theirs: Tensor, ours: Tensor) -> bool:
    same_rest = theirs.ndim == ours.ndim == 3 and (theirs.shape[0], theirs.shape[2]) == (1, ours.shape[2])
    return same_rest and theirs.shape[1] != ours.shape[1]


def _grids(theirs: int, ours: int, before: int) -> tuple[Tokens, Tokens] | None:
    """Both as squares, behind the tokens that stand before the patches, or without positions for such tokens."""
    for prefix in (before, 0):
        sides = math.isqrt(theirs - prefix), math.isqrt(ours - prefix)
        if all(side**2 == tokens - prefix for side, tokens in zip(sides, (theirs, ours), strict=True)):
            return Tokens(prefix, sides[0]), Tokens(prefix, sides[1])
    return None


def _interpolated(positions: Tensor, old: Tokens, new: Tokens) -> Tensor:
    prefix, patches = positions[:, : old.prefix], positions[:, old.prefix :]
    plane = patches.float().transpose(1, 2).unflatten(2, (old.side, old.side))
    wanted = functional.interpolate(plane, (new.side, new.side), mode="bicubic", antialias=True)
    return torch.cat([prefix, wanted.flatten(2).transpose(1, 2).to(prefix.dtype)], dim=1)
