"""The threat model: which perturbations an attacker may add. Pixels are in [0, 1] everywhere."""

from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from components.errors import InputError
from components.noise import Rng, normal, uniform
from components.params import STRICT, Fractional

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
        """The same norm with another radius."""
        return Threat(norm=self.norm, epsilon=epsilon)

    def project(self, images_adv: Tensor, images: Tensor) -> Tensor:
        """The points of the ball around `images` and of [0, 1] for `images_adv`, both [N, C, H, W].

        L∞: the nearest point. L2: scaled back to the sphere, then clipped to [0, 1], which never leaves the ball
        because `images` is inside [0, 1] itself.
        """
        if self.norm == "linf":
            return torch.clamp(images_adv, images - self.radius, images + self.radius).clamp_(0, 1)
        offset = images_adv - images
        scale = (self.radius / self.size(offset).clamp_min(1e-12)).clamp_max(1)
        return (images + offset * _per_image(scale)).clamp_(0, 1)

    def random_start(self, images: Tensor, rng: Rng) -> Tensor:
        """Points drawn uniformly from the ball around `images` (then clipped to [0, 1]), [N, C, H, W]."""
        if self.norm == "linf":
            return (images + self.radius * (uniform(rng, images) * 2 - 1)).clamp_(0, 1)
        direction = normal(rng, images)
        length = uniform(rng, images, ()) ** (1 / images[0].numel())
        scale = self.radius * length / self.size(direction).clamp_min(1e-12)
        return (images + direction * _per_image(scale)).clamp_(0, 1)

    def steepest_step(self, gradient: Tensor, step_size: float) -> Tensor:
        """The step of length `step_size` in this norm that raises a linear function with this gradient most."""
        if self.norm == "linf":
            return step_size * gradient.sign()
        return gradient * _per_image(step_size / self.size(gradient).clamp_min(1e-12))

    def size(self, offset: Tensor) -> Tensor:
        """The norm of each image's perturbation, [N]."""
        flat = offset.flatten(1)
        return flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)

    def verify(self, images_adv: Tensor, images: Tensor) -> Tensor:
        """`images_adv`, after asserting that it is finite, inside the ball and inside [0, 1]."""
        worst = self.size(images_adv - images).max()
        low, high = torch.aminmax(images_adv)
        # Written so that NaN fails too; on a GPU the check waits in the stream, so that no step waits for the host.
        inside = (worst <= self.radius + TOLERANCE) & (low >= 0) & (high <= 1)
        message = f"an attack left the ball of {self} or the pixel range [0, 1]"
        torch._assert_async(inside, message)  # pyright: ignore[reportPrivateImportUsage]
        return images_adv


def require_pixels(images: Tensor) -> None:
    """Refuses images outside [0, 1], the usual sign that they were already normalised."""
    low, high = (float(bound) for bound in torch.aminmax(images))
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"images: pixels in [{low:.3f}, {high:.3f}], want [0, 1] (normalisation is the model's first layer)"
        )


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
