"""L1: the sum of the absolute changes of all of an image's numbers, pixels from 0 to 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from components.foundation.params import Ratio
from components.numerics.random_numbers import Rng, normal, uniform
from components.threats.parts.hyperplanes import Approach
from components.threats.parts.norm import StandardApgd
from components.threats.parts.squares import PyramidSquares

# The projection aims so much inside the ball that rounding to float32 never leads out of it (as the reference does).
INSIDE = 1 - 1e-6


@dataclass(frozen=True)
class L1:
    """The sum of all changes: few pixels may change much, or many a little.

    What a step is worth depends on [0, 1], unlike in the other norms: the ball's corners lie far outside it. So every
    operation here is that of the ball *and* the box (Croce & Hein, "Mind the box", arXiv 2103.01208).
    """

    name: ClassVar[str] = "l1"
    largest: ClassVar[Ratio | None] = None
    standard: ClassVar[StandardApgd | None] = StandardApgd(restarts=5, targets=5)
    by_pixel: ClassVar[bool] = False

    def size(self, offset: Tensor) -> Tensor:
        return offset.flatten(1).abs().sum(1)

    def project(self, images_adv: Tensor, images: Tensor, radius: float | Tensor) -> Tensor:
        """The nearest point of the intersection of ball and box ("Mind the box").

        Every change shrinks by the same level λ ≥ 0, and stops at 0 and at the room that [0, 1] leaves: the size is
        Σ clip(|δ| - λ, 0, room). Without the box this is the projection of Duchi et al. (ICML 2008); that one followed
        by clipping is in the intersection too, but not the nearest point, and gives away radius.
        """
        offset = images_adv - images
        room = torch.where(offset > 0, 1 - images, images)
        sizes, rooms = (part.flatten(1).double() for part in (offset.abs(), room))
        radii = _column(radius, sizes) * INSIDE
        shrunk = (sizes - _level(sizes, rooms, radii)).clamp_min_(0).minimum(rooms)
        return (images + offset.sign() * shrunk.view_as(offset).to(offset.dtype)).clamp_(0, 1)

    def random_start(self, images: Tensor, radius: float | Tensor, rng: Rng) -> Tensor:
        """A Laplace direction of size 1 times radius · u^(1 / D): uniform in the ball of D numbers."""
        draws = uniform(rng, images) * 2 - 1
        direction = -draws.sign() * torch.log1p(-draws.abs().clamp_max(1 - 2**-24))
        length = uniform(rng, images, (1, 1, 1)) ** (1 / images.shape[1:].numel())
        scale = radius * length / self.size(direction).view(-1, 1, 1, 1).clamp_min(1e-12)
        return (images + direction * scale).clamp_(0, 1)

    def random_edge(self, images: Tensor, radius: float | Tensor, rng: Rng) -> Tensor:
        """Gaussian noise, projected: where the radius is small, few numbers change (APGD's start in "Mind the box")."""
        return self.project(images + normal(rng, images), images, radius)

    def steepest_step(self, gradient: Tensor, step_size: float | Tensor, points: Tensor) -> Tensor:
        """The pixels of largest gradient move to their bound, one after another, until the step's length is used up.

        The steepest step of the ball alone moves one pixel, by more than [0, 1] allows, and is stuck as soon as that
        pixel is at its bound. This is the steepest step that stays in [0, 1] ("Mind the box"): how many pixels move
        follows from their room, so no share of pixels has to be chosen as in SLIDE (Tramèr & Boneh, arXiv 1904.13000),
        which moves the one percent of largest gradient.
        """
        flat = gradient.flatten(1)
        room = torch.where(flat > 0, 1 - points.flatten(1), points.flatten(1)).clamp_min(0)
        order = flat.abs().argsort(dim=1, descending=True, stable=True)
        length = _column(step_size, flat)
        moved = _filled(room.gather(1, order), length)
        return (flat.sign() * torch.zeros_like(flat).scatter(1, order, moved)).view_as(gradient)

    def sparse_step(self, gradient: Tensor, step_size: float | Tensor, share: Tensor) -> Tensor:
        """Signs of the largest components, over their number, times the step size (SLIDE, with a share of choice).

        At least one number moves. Where the gradient is zero, nothing does.
        """
        sizes = gradient.flatten(1).abs()
        count = sizes.shape[1]
        rank = ((1 - share.view(-1, 1)) * count).long().clamp(0, count - 1)
        least = sizes.sort(dim=1).values.gather(1, rank)
        signs = (gradient.flatten(1) * (sizes >= least)).sign()
        return step_size * (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)

    def onto_hyperplane(self, points: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
        """The numbers of largest weight move to their bound, one after another, until the hyperplane is reached."""
        direction, room, weights, change = Approach.of(points, normals, offsets)
        order = weights.argsort(dim=1, descending=True, stable=True)
        ordered, rooms = weights.gather(1, order), room.gather(1, order)
        gains = _filled(ordered * rooms, change)
        moved = (gains / ordered.clamp_min(torch.finfo(ordered.dtype).tiny)).minimum(rooms)
        return direction * torch.zeros_like(room).scatter(1, order, moved)

    def squares(self, shape: Sequence[int], radius: float) -> PyramidSquares:
        """Those of AutoAttack's Square in L1: steeper pyramids, and the projection in place of scaling and clipping."""
        return PyramidSquares(shape, radius, power=1, decay=4, spill=shape[0], fit=self._inside)

    def _inside(self, images: Tensor, offset: Tensor, radius: float) -> Tensor:
        return self.project(images + offset, images, radius)


def _column(length: float | Tensor, like: Tensor) -> Tensor:
    """A length for each row of `like`, [N, 1], or one for all, [1, 1]. Nothing is copied from the host for it."""
    return length.to(like).view(-1, 1) if isinstance(length, Tensor) else like.new_full((1, 1), length)


def _filled(room: Tensor, total: Tensor) -> Tensor:
    """How much of each room [N, D] is taken when `total` [N, 1] is spent on them from left to right."""
    before = room.cumsum(1) - room
    return (total - before).clamp_min(0).minimum(room)


def _level(sizes: Tensor, rooms: Tensor, radii: Tensor) -> Tensor:
    """The smallest λ ≥ 0 at which Σ clip(sizes - λ, 0, rooms), [N, D], is at most `radii`, [N, 1].

    The sum falls linearly between the ends, at which a number leaves its bound or becomes zero.
    """
    ends = torch.cat([(sizes - rooms).clamp_min(0), sizes], 1)
    order = ends.argsort(dim=1, stable=True)
    ends = ends.gather(1, order)
    moving = torch.where(order < sizes.shape[1], 1.0, -1.0).to(sizes).cumsum(1)
    whole = sizes.minimum(rooms).sum(1, keepdim=True)
    falls = moving[:, :-1] * ends.diff(dim=1)
    sums = torch.cat([whole, whole - falls.cumsum(1)], 1)
    # The last end at which the sum is too large; the level lies between it and the next.
    last = ((sums > radii).sum(1, keepdim=True) - 1).clamp_min(0)
    step = (sums - radii).gather(1, last) / moving.gather(1, last).clamp_min(1)
    return torch.where(whole > radii, ends.gather(1, last) + step, 0.0)
