"""L∞: every number of an image may change by the radius."""

# torch leaves the types of some functions open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from components.foundation.params import Ratio
from components.numerics.losses import TINY
from components.numerics.random_numbers import Rng, uniform
from components.threats.parts.hyperplanes import Approach, rise
from components.threats.parts.norm import StandardApgd
from components.threats.parts.squares import Move, chosen_signs, placed, signs_of, square_at


@dataclass(frozen=True)
class Linf:
    """The largest change of a pixel. A radius is a share of the pixel range, such as 8/255."""

    name: ClassVar[str] = "linf"
    largest: ClassVar[Ratio | None] = Ratio(1)
    standard: ClassVar[StandardApgd | None] = StandardApgd()
    by_pixel: ClassVar[bool] = True

    def size(self, offset: Tensor) -> Tensor:
        return offset.flatten(1).abs().amax(1)

    def project(self, images_adv: Tensor, images: Tensor, radius: float | Tensor) -> Tensor:
        """The nearest point."""
        return torch.clamp(images_adv, images - radius, images + radius).clamp_(0, 1)

    def random_start(self, images: Tensor, radius: float | Tensor, rng: Rng) -> Tensor:
        return (images + radius * (uniform(rng, images) * 2 - 1)).clamp_(0, 1)

    def random_edge(self, images: Tensor, radius: float | Tensor, rng: Rng) -> Tensor:
        """Uniform noise, scaled so that its largest number is the radius, then clipped."""
        noise = uniform(rng, images) * 2 - 1
        scale = radius / self.size(noise).view(-1, 1, 1, 1).clamp_min(TINY)
        return self.project(images + noise * scale, images, radius)

    def random_corner(self, images: Tensor, radius: float, rng: Rng) -> Tensor:
        return radius * (2 * (uniform(rng, images) < 0.5).to(images) - 1)

    def steepest_step(self, gradient: Tensor, step_size: float | Tensor, points: Tensor) -> Tensor:
        """Every number by the step size, in the direction of the gradient's sign."""
        return step_size * gradient.sign()

    def onto_hyperplane(self, points: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
        """All numbers move by the same, each as far as [0, 1] lets it (see `hyperplanes.rise`)."""
        approach = Approach.of(points, normals, offsets)
        return rise(approach, approach.weights, lambda level: level)

    def squares(self, shape: Sequence[int], radius: float) -> "LinfSquares":
        return LinfSquares(shape, radius)


class LinfSquares:
    """Algorithm 2 of the Square attack: every pixel is at +radius or -radius, clipped to [0, 1]."""

    def __init__(self, shape: Sequence[int], radius: float) -> None:
        self.shape, self.radius = shape, radius

    def start(self, images: Tensor, rng: Rng, draw: torch.Generator) -> Tensor:
        """Vertical stripes one pixel wide, the signs drawn for each image and channel, [N, C, H, W]."""
        signs = signs_of(uniform(rng, images, (self.shape[0], 1, self.shape[2])))
        return (images + self.radius * signs).clamp_(0, 1)

    def draw(self, share: float, draw: torch.Generator) -> Move:
        """The next move, its square as near as may be to `share` of the image."""
        channels, height, width = self.shape
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        row, column, *signs = torch.rand(2 + channels, generator=draw).tolist()
        return Move(side, placed(row, column, side, self.shape), chosen_signs(signs))

    def propose(self, points: Tensor, images: Tensor, move: Move, among: Tensor) -> tuple[Tensor, Tensor]:
        """Of the images in the mask `among` those that the move changes, [M], and what it makes of them."""
        square = square_at(move.place, move.side)
        signs = torch.tensor(move.signs, device=points.device).view(-1, 1, 1)
        filled = (images[square] + self.radius * signs).clamp_(0, 1)
        chosen = (among & (filled != points[square]).flatten(1).any(1)).nonzero().squeeze(1)
        candidates = points[chosen]
        candidates[square] = filled[chosen]
        return chosen, candidates
