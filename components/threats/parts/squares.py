"""The moves of the Square attack (Andriushchenko et al., arXiv 1912.00049): starts, squares and what they change."""

# torch leaves the types of some functions open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import EllipsisType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from components.numerics.random_numbers import Rng, uniform


class Move(NamedTuple):
    """A square of `side` pixels at row and column `place`, with one sign for each channel.

    Among pyramids it takes over the norm of the square at `source`, and `upright` says which way its halves lie.
    """

    side: int
    place: tuple[int, int]
    signs: tuple[int, ...]
    source: tuple[int, int] = (0, 0)
    upright: bool = True


class Squares(Protocol):
    """Where a search by squares begins, and what its moves do. Images, points and candidates are [N, C, H, W]."""

    def start(self, images: Tensor, rng: Rng, draw: torch.Generator) -> Tensor:
        """Points in the ball; what is drawn from `rng` is each image's own."""
        ...

    def draw(self, share: float, draw: torch.Generator) -> Move:
        """The next move for all images, its square as near as may be to `share` of the image."""
        ...

    def propose(self, points: Tensor, images: Tensor, move: Move, among: Tensor) -> tuple[Tensor, Tensor]:
        """Of the images in the mask `among` those that the move may change, [M], and what it makes of them."""
        ...


Fit = Callable[[Tensor, Tensor, float], Tensor]
"""Images, perturbations, radius -> points in the ball and in [0, 1]."""


class PyramidSquares:
    """Algorithm 3, for norms whose power adds up over pixels: squares of pyramids take over the norm of other squares.

    Args:
        shape: of an image, (C, H, W).
        radius: of the ball.
        power: Σ |δ|^power is the norm to that power.
        decay: how fast pyramids fall off, see `pyramids`.
        spill: a square gets so many times the norm that is free for it; `fit` takes back what is too much.
        fit: brings perturbations into the ball.
    """

    def __init__(self, shape: Sequence[int], radius: float, *, power: int, decay: int, spill: int, fit: Fit) -> None:
        self.shape, self.radius = shape, radius
        self.power, self.decay, self.spill, self.fit = power, decay, spill, fit

    def start(self, images: Tensor, rng: Rng, draw: torch.Generator) -> Tensor:
        """A grid of five by five or more pairs of pyramids, signs drawn for each image and channel, [N, C, H, W]."""
        channels, height, width = self.shape
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        pair = pyramids(side, self.power, self.decay).to(images.device)
        upright = (torch.rand(rows, 1, columns, 1, generator=draw) < 0.5).to(images.device)
        tiles = torch.where(upright, pair[None, :, None, :], pair.T[None, :, None, :])
        signs = signs_of(uniform(rng, images, (channels, rows, 1, columns, 1)))
        offset = torch.zeros_like(images)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        area = (..., slice(top, top + rows * side), slice(left, left + columns * side))
        offset[area] = (signs * tiles).reshape(len(images), channels, rows * side, columns * side)
        return self.fit(images, offset, self.radius)

    def draw(self, share: float, draw: torch.Generator) -> Move:
        """The next move, its squares of an odd side of at least 3 and as near as may be to `share` of the image."""
        channels, height, width = self.shape
        side = min(max(round(math.sqrt(share * height * width)), 3) | 1, height, width)
        row, column, *rest = torch.rand(5 + channels, generator=draw).tolist()
        source = placed(rest[0], rest[1], side, self.shape)
        return Move(side, placed(row, column, side, self.shape), chosen_signs(rest[3:]), source, rest[2] < 0.5)

    def propose(self, points: Tensor, images: Tensor, move: Move, among: Tensor) -> tuple[Tensor, Tensor]:
        """Of the images in the mask `among` those that the move may change, [M], and what it makes of them."""
        chosen = among.nonzero().squeeze(1)
        images = images[chosen]
        offset = points[chosen] - images
        square, source = square_at(move.place, move.side), square_at(move.source, move.side)
        both = torch.zeros(self.shape[1:], device=points.device)
        both[square] = both[source] = 1
        # What the new square may have: the norm of both squares, and what clipping left unused, shared by the channels.
        unused = (self.radius**self.power - self._sum(offset, (1, 2, 3))).clamp_min(0)
        size = (self._sum(offset * both, (2, 3)) + unused / self.shape[0]).pow(1 / self.power) * self.spill
        pair = pyramids(move.side, self.power, self.decay).to(points.device)
        signs = torch.tensor(move.signs, device=points.device).view(-1, 1, 1)
        fresh = self._unit(offset[square]) + signs * (pair if move.upright else pair.T)
        offset[source] = 0
        offset[square] = self._unit(fresh) * size
        return chosen, self.fit(images, offset, self.radius)

    def _unit(self, squares: Tensor) -> Tensor:
        """Each channel's square scaled to norm 1."""
        return squares / self._sum(squares, (-2, -1)).pow(1 / self.power).clamp_min(1e-12)

    def _sum(self, values: Tensor, axes: tuple[int, ...]) -> Tensor:
        return values.abs().pow(self.power).sum(axes, keepdim=True)


@lru_cache
def pyramids(side: int, power: int, decay: int) -> Tensor:
    """Two pyramids, positive above and negative below, of norm 1 together, [side, side] (section 3.4).

    A pyramid's value falls with the distance r (in king's moves) from its centre, as the sum of 1/(k + 1)^decay from
    k = r to the longer half side. `power` says which norm: 1 is L1, 2 is L2.
    """
    halves = []
    for height, sign in ((side // 2, 1), (side - side // 2, -1)):
        rows, columns = torch.arange(height) - height // 2, torch.arange(side) - side // 2
        distance = torch.maximum(rows.abs()[:, None], columns.abs())
        terms = 1 / torch.arange(1, side // 2 + 2).pow(decay)
        half = terms.flip(0).cumsum(0).flip(0)[distance]
        halves.append(sign * half / half.norm(p=power).clamp_min(1e-12))
    pair = torch.cat(halves)
    return pair / pair.norm(p=power)


def square_at(place: tuple[int, int], side: int) -> tuple[EllipsisType, slice, slice]:
    """The index of a square in the last two axes."""
    return (..., slice(place[0], place[0] + side), slice(place[1], place[1] + side))


def placed(row: float, column: float, side: int, shape: Sequence[int]) -> tuple[int, int]:
    """Numbers in [0, 1) -> the first row and column of a square inside an image of `shape`."""
    return int(row * (shape[1] - side + 1)), int(column * (shape[2] - side + 1))


def signs_of(numbers: Tensor) -> Tensor:
    """Numbers in [0, 1) -> 1 or -1, float32."""
    return (numbers < 0.5).float() * 2 - 1


def chosen_signs(numbers: Sequence[float]) -> tuple[int, ...]:
    """Numbers in [0, 1) -> 1 or -1."""
    return tuple(1 if number < 0.5 else -1 for number in numbers)
