"""The threat model: which perturbations an attacker may add. Pixels are in [0, 1] everywhere."""

from typing import Literal, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from components.foundation.errors import InputError
from components.foundation.params import STRICT, Fractional, Ratio
from components.numerics.random_numbers import Rng, normal, uniform

# float32 rounding of `image ± epsilon`; a tenth of a thousandth of a grey level.
TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Threat:
    """A ball of radius `epsilon` (exact fraction of the pixel range) in the `norm`, intersected with [0, 1]."""

    norm: Literal["linf", "l2"]
    epsilon: Fractional

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"got epsilon {self.epsilon}, want a radius of at least 0")
        if self.norm == "linf" and self.epsilon > 1:
            raise ValueError(f"got epsilon {self.epsilon}, want a share of the pixel range [0, 1], such as 8/255")

    @property
    def radius(self) -> float:
        """Epsilon as a float."""
        return float(self.epsilon)

    def at(self, epsilon: Fractional) -> "Threat":
        """The same norm with another radius.

        >>> half = threat.at(Ratio(1, 2))
        >>> bool((half.size(half.project(images + 1, images) - images) <= 0.5 + 1e-6).all())
        True
        """
        return Threat(norm=self.norm, epsilon=epsilon)

    def each(self, radii: Tensor) -> "Balls":
        """The same norm with a radius of its own for each image: `radii` [N], none above epsilon."""
        return Balls(self.norm, self.epsilon, radii.view(-1, 1, 1, 1))

    def project(self, images_adv: Tensor, images: Tensor) -> Tensor:
        """The points of the ball around `images` and of [0, 1] for `images_adv`, both [N, C, H, W].

        L∞: the nearest point. L2: scaled back to the sphere, then clipped to [0, 1], which never leaves the ball
        because `images` is inside [0, 1] itself.
        """
        return self._balls.project(images_adv, images)

    def random_start(self, images: Tensor, rng: Rng) -> Tensor:
        """Points drawn uniformly from the ball around `images` (then clipped to [0, 1]), [N, C, H, W]."""
        return self._balls.random_start(images, rng)

    def steepest_step(self, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """The step of length `step_size` in this norm that raises a linear function with this gradient most.

        One length for all images, or one for each, [N, 1, 1, 1].
        """
        return self._balls.steepest_step(gradient, step_size)

    def size(self, offset: Tensor) -> Tensor:
        """The norm of each image's perturbation, [N]."""
        return self._balls.size(offset)

    def verify(self, images_adv: Tensor, images: Tensor) -> Tensor:
        """`images_adv`, after asserting that it is finite, inside the ball and inside [0, 1]."""
        return self._balls.verify(images_adv, images)

    @property
    def _balls(self) -> "Balls":
        return Balls(self.norm, self.epsilon, self.radius)


class Balls(NamedTuple):
    """What attacks ask of a threat model, as `Threat` documents it, at one radius for all images or one for each.

    `radius` is a number or a tensor [N, 1, 1, 1], whose values are at most `epsilon`.
    """

    norm: Literal["linf", "l2"]
    epsilon: Ratio
    radius: float | Tensor

    def project(self, images_adv: Tensor, images: Tensor) -> Tensor:
        if self.norm == "linf":
            return torch.clamp(images_adv, images - self.radius, images + self.radius).clamp_(0, 1)
        offset = images_adv - images
        scale = (self.radius / self._sizes(offset).clamp_min(1e-12)).clamp_max(1)
        return (images + offset * scale).clamp_(0, 1)

    def random_start(self, images: Tensor, rng: Rng) -> Tensor:
        if self.norm == "linf":
            return (images + self.radius * (uniform(rng, images) * 2 - 1)).clamp_(0, 1)
        direction = normal(rng, images)
        length = uniform(rng, images, (1, 1, 1)) ** (1 / images[0].numel())
        scale = self.radius * length / self._sizes(direction).clamp_min(1e-12)
        return (images + direction * scale).clamp_(0, 1)

    def steepest_step(self, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        if self.norm == "linf":
            return step_size * gradient.sign()
        return gradient * (step_size / self._sizes(gradient).clamp_min(1e-12))

    def size(self, offset: Tensor) -> Tensor:
        flat = offset.flatten(1)
        return flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)

    def verify(self, images_adv: Tensor, images: Tensor) -> Tensor:
        low, high = torch.aminmax(images_adv)
        # Written so that NaN fails too; on a GPU the check waits in the stream, so that no step waits for the host.
        inside = (self._sizes(images_adv - images) <= self.radius + TOLERANCE).all() & (low >= 0) & (high <= 1)
        message = f"an attack left the ball of {self.norm} {self.epsilon} or the pixel range [0, 1]"
        torch._assert_async(inside, message)  # pyright: ignore[reportPrivateImportUsage]
        return images_adv

    def _sizes(self, offset: Tensor) -> Tensor:
        return self.size(offset).view(-1, 1, 1, 1)


def require_pixels(images: Tensor) -> None:
    """Refuses images outside [0, 1], the usual sign that they were already normalised."""
    low, high = (float(bound) for bound in torch.aminmax(images))
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"images: pixels in [{low:.3f}, {high:.3f}], want [0, 1] (normalisation is the model's first layer)"
        )
