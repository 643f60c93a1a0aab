"""The moves of the Square attack (Andriushchenko et al., arXiv 1912.00049): starts, squares and what they change."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from components.numerics.random_numbers import Rng, uniform


class Move(NamedTuple):
    """A square of `side` pixels at row and column `place`, with one sign for each channel.

    In L2 it takes over the norm of the square at `source`, and `upright` says which way its two halves lie.
    """

    side: int
    place: tuple[int, int]
    signs: tuple[int, ...]
    source: tuple[int, int] = (0, 0)
    upright: bool = True


class LinfSquares:
    """Algorithm 2: every pixel is at +radius or -radius, clipped to [0, 1]."""

    def __init__(self, shape: Sequence[int], radius: float) -> None:
        self.shape, self.radius = shape, radius

    def start(self, images: Tensor, rng: Rng, draw: torch.Generator) -> Tensor:
        """Vertical stripes one pixel wide, the signs drawn for each image and channel, [N, C, H, W]."""
        signs = _signs(uniform(rng, images, (self.shape[0], 1, self.shape[2])))
        return (images + self.radius * signs).clamp_(0, 1)

    def draw(self, share: float, draw: torch.Generator) -> Move:
        """The next move, its square as near as may be to `share` of the image."""
        channels, height, width = self.shape
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        row, column, *signs = torch.rand(2 + channels, generator=draw).tolist()
        return Move(side, _place(row, column, side, self.shape), _choices(signs))

    def propose(self, points: Tensor, images: Tensor, move: Move, among: Tensor) -> tuple[Tensor, Tensor]:
        """Of the images in the mask `among` those that the move changes, [M], and what it makes of them."""
        square = _square(move.place, move.side)
        signs = torch.tensor(move.signs, device=points.device).view(-1, 1, 1)
        filled = (images[square] + self.radius * signs).clamp_(0, 1)
        chosen = (among & (filled != points[square]).flatten(1).any(1)).nonzero().squeeze(1)
        candidates = points[chosen]
        candidates[square] = filled[chosen]
        return chosen, candidates


class L2Squares:
    """Algorithm 3: every perturbation has norm `radius` before it is clipped to [0, 1]."""

    def __init__(self, shape: Sequence[int], radius: float) -> None:
        self.shape, self.radius = shape, radius

    def start(self, images: Tensor, rng: Rng, draw: torch.Generator) -> Tensor:
        """A grid of five by five or more pairs of pyramids, signs drawn for each image and channel, [N, C, H, W]."""
        channels, height, width = self.shape
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        pair = pyramids(side).to(images.device)
        upright = (torch.rand(rows, 1, columns, 1, generator=draw) < 0.5).to(images.device)
        tiles = torch.where(upright, pair[None, :, None, :], pair.T[None, :, None, :])
        signs = _signs(uniform(rng, images, (channels, rows, 1, columns, 1)))
        offset = torch.zeros_like(images)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        area = (..., slice(top, top + rows * side), slice(left, left + columns * side))
        offset[area] = (signs * tiles).reshape(len(images), channels, rows * side, columns * side)
        return self._at_radius(images, offset)

    def draw(self, share: float, draw: torch.Generator) -> Move:
        """The next move, its squares of an odd side of at least 3 and as near as may be to `share` of the image."""
        channels, height, width = self.shape
        side = min(max(round(math.sqrt(share * height * width)), 3) | 1, height, width)
        row, column, *rest = torch.rand(5 + channels, generator=draw).tolist()
        source = _place(rest[0], rest[1], side, self.shape)
        return Move(side, _place(row, column, side, self.shape), _choices(rest[3:]), source, rest[2] < 0.5)

    def propose(self, points: Tensor, images: Tensor, move: Move, among: Tensor) -> tuple[Tensor, Tensor]:
        """Of the images in the mask `among` those that the move may change, [M], and what it makes of them."""
        chosen = among.nonzero().squeeze(1)
        images = images[chosen]
        offset = points[chosen] - images
        square, source = _square(move.place, move.side), _square(move.source, move.side)
        both = torch.zeros(self.shape[1:], device=points.device)
        both[square] = both[source] = 1
        # What the new square may have: the norm of both squares, and what clipping left unused, shared by the channels.
        unused = (self.radius**2 - offset.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
        norm = ((offset * both).square().sum((2, 3), keepdim=True) + unused / self.shape[0]).sqrt()
        pair = pyramids(move.side).to(points.device)
        signs = torch.tensor(move.signs, device=points.device).view(-1, 1, 1)
        fresh = _unit(offset[square]) + signs * (pair if move.upright else pair.T)
        offset[source] = 0
        offset[square] = _unit(fresh) * norm
        return chosen, self._at_radius(images, offset)

    def _at_radius(self, images: Tensor, offset: Tensor) -> Tensor:
        scale = self.radius / offset.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
        return (images + scale * offset).clamp_(0, 1)


@lru_cache
def pyramids(side: int) -> Tensor:
    """Two pyramids, positive above and negative below, of norm 1 together, [side, side] (section 3.4).

    A pyramid's value falls with the distance r (in king's moves) from its centre, as the sum of 1/(k + 1)² from k = r
    to the longer half side.
    """
    halves = []
    for height, sign in ((side // 2, 1), (side - side // 2, -1)):
        rows, columns = torch.arange(height) - height // 2, torch.arange(side) - side // 2
        distance = torch.maximum(rows.abs()[:, None], columns.abs())
        terms = 1 / torch.arange(1, side // 2 + 2).square()
        half = terms.flip(0).cumsum(0).flip(0)[distance]
        halves.append(sign * half / half.norm().clamp_min(1e-12))
    pair = torch.cat(halves)
    return pair / pair.norm()


def _unit(squares: Tensor) -> Tensor:
    """Each channel's square scaled to norm 1."""
    return squares / squares.square().sum((-2, -1), keepdim=True).sqrt().clamp_min(1e-12)


def _square(place: tuple[int, int], side: int) -> tuple:
    return (..., slice(place[0], place[0] + side), slice(place[1], place[1] + side))


def _place(row: float, column: float, side: int, shape: Sequence[int]) -> tuple[int, int]:
    return int(row * (shape[1] - side + 1)), int(column * (shape[2] - side + 1))


def _signs(numbers: Tensor) -> Tensor:
    return (numbers < 0.5).float() * 2 - 1


def _choices(numbers: list[float]) -> tuple[int, ...]:
    return tuple(1 if number < 0.5 else -1 for number in numbers)
