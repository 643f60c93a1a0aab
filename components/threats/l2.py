"""L2: the Euclidean length of the change of an image, pixels from 0 to 1."""

# torch leaves the types of some functions open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from components.foundation.params import Ratio
from components.numerics.losses import TINY
from components.numerics.random_numbers import Rng, normal, uniform
from components.threats.parts.hyperplanes import Approach, rise
from components.threats.parts.norm import StandardApgd
from components.threats.parts.squares import PyramidSquares


@dataclass(frozen=True)
class L2:
    """The root of the sum of all squared changes of an image's numbers."""

    name: ClassVar[str] = "l2"
    largest: ClassVar[Ratio | None] = None
    standard: ClassVar[StandardApgd | None] = StandardApgd()

    def size(self, offset: Tensor) -> Tensor:
        return offset.flatten(1).norm(dim=1)

    def project(self, images_adv: Tensor, images: Tensor, radius: float | Tensor) -> Tensor:
        """Scaled back to the sphere, then clipped to [0, 1].

        Clipping never leaves the ball, because `images` is inside [0, 1] itself.
        """
        offset = images_adv - images
        scale = (radius / self._sizes(offset).clamp_min(1e-12)).clamp_max(1)
        return (images + offset * scale).clamp_(0, 1)

    def random_start(self, images: Tensor, radius: float | Tensor, rng: Rng) -> Tensor:
        direction = normal(rng, images)
        length = uniform(rng, images, (1, 1, 1)) ** (1 / images.shape[1:].numel())
        scale = radius * length / self._sizes(direction).clamp_min(1e-12)
        return (images + direction * scale).clamp_(0, 1)

    def random_edge(self, images: Tensor, radius: float | Tensor, rng: Rng) -> Tensor:
        """Gaussian noise, scaled to the length of the radius, then clipped."""
        noise = normal(rng, images)
        return self.project(images + noise * (radius / self._sizes(noise).clamp_min(TINY)), images, radius)

    def steepest_step(self, gradient: Tensor, step_size: float | Tensor, points: Tensor) -> Tensor:
        """Along the gradient."""
        return gradient * (step_size / self._sizes(gradient).clamp_min(1e-12))

    def onto_hyperplane(self, points: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
        """Along the normal, each number as far as [0, 1] lets it (see `hyperplanes.rise`)."""
        approach = Approach.of(points, normals, offsets)
        return rise(approach, approach.weights.square(), lambda level: level * approach.weights)

    def squares(self, shape: Sequence[int], radius: float) -> PyramidSquares:
        """Algorithm 3 of the Square attack: every perturbation has the radius' length before it is clipped."""
        return PyramidSquares(shape, radius, power=2, decay=2, spill=1, fit=self._at_radius)

    def _at_radius(self, images: Tensor, offset: Tensor, radius: float) -> Tensor:
        scale = radius / offset.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
        return (images + scale * offset).clamp_(0, 1)

    def _sizes(self, offset: Tensor) -> Tensor:
        return self.size(offset).view(-1, 1, 1, 1)
