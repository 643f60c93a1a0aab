"""The threat model: which perturbations an attacker may add. Pixels are in [0, 1] everywhere."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from components.foundation.errors import InputError, choose
from components.foundation.params import Fractional, NotNegativeFraction, Ratio, strict, typed
from components.numerics.random_numbers import Rng
from components.threats.parts.norm import Norm

# float32 rounding of `image ± epsilon`; a tenth of a thousandth of a grey level.
TOLERANCE = 1e-6


@strict
class Threat:
    """A ball of radius `epsilon` (exact, in units of the pixel range) in the `norm`, intersected with [0, 1].

    With `radii` [N, 1, 1, 1], none above epsilon, each image has a ball of its own.
    """

    norm: Norm
    epsilon: NotNegativeFraction
    radii: Tensor | None = Field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.norm.largest is not None and self.epsilon > self.norm.largest:
            raise ValueError(f"got epsilon {self.epsilon}, want a share of the pixel range [0, 1], such as 8/255")

    @property
    def radius(self) -> float:
        """Epsilon as a float."""
        return float(self.epsilon)

    @property
    def section(self) -> dict[str, str]:
        """The keys of params.yaml: `{norm: linf, epsilon: 8/255}`."""
        return {"norm": self.norm.name, "epsilon": str(self.epsilon)}

    def at(self, epsilon: Fractional) -> "Threat":
        """The same norm with another radius.

        >>> half = threat.at(Ratio(1, 2))
        >>> bool((half.size(half.project(images + 1, images) - images) <= 0.5 + 1e-6).all())
        True
        """
        return Threat(norm=self.norm, epsilon=epsilon)

    def up_to(self, epsilon: Ratio) -> "Threat":
        """The same norm with this radius, or with the largest that means anything."""
        return self.at(epsilon if self.norm.largest is None else min(epsilon, self.norm.largest))

    def each(self, radii: Tensor) -> "Threat":
        """The same norm with a radius of its own for each image: `radii` [N], none above epsilon."""
        return Threat(norm=self.norm, epsilon=self.epsilon, radii=radii.view(-1, 1, 1, 1))

    @property
    def reach(self) -> float | Tensor:
        """The radius of every image's ball: one number, or [N, 1, 1, 1]."""
        return self.radius if self.radii is None else self.radii

    def project(self, images_adv: Tensor, images: Tensor) -> Tensor:
        """Points of the ball around `images` and of [0, 1] for `images_adv`, both [N, C, H, W]."""
        return self.norm.project(images_adv, images, self.reach)

    def random_start(self, images: Tensor, rng: Rng) -> Tensor:
        """Points drawn uniformly from the ball around `images` (then clipped to [0, 1]), [N, C, H, W]."""
        return self.norm.random_start(images, self.reach, rng)

    def steepest_step(self, gradient: Tensor, step_size: float | Tensor, points: Tensor) -> Tensor:
        """The step of length `step_size` from `points` that raises a linear function with this gradient most.

        One length for all images, or one for each, [N, 1, 1, 1].
        """
        return self.norm.steepest_step(gradient, step_size, points)

    def size(self, offset: Tensor) -> Tensor:
        """The norm of each image's perturbation, [N]."""
        return self.norm.size(offset)

    def verify(self, images_adv: Tensor, images: Tensor) -> Tensor:
        """`images_adv`, after asserting that it is finite, inside the ball and inside [0, 1]."""
        if not len(images_adv):
            return images_adv
        low, high = torch.aminmax(images_adv)
        sizes = self.norm.size(images_adv - images).view(-1, 1, 1, 1)
        # Every pixel may be off by half a unit in the last place of float32, which adds up where the norm adds up.
        rounding = self.norm.size(torch.full_like(images[:1], torch.finfo(torch.float32).eps / 2))
        allowed = self.reach + TOLERANCE * max(1.0, float(self.epsilon)) + rounding
        # Written so that NaN fails too; on a GPU the check waits in the stream, so that no step waits for the host.
        inside = (sizes <= allowed).all() & (low >= 0) & (high <= 1)
        message = f"an attack left the ball of {self.norm.name} {self.epsilon} or the pixel range [0, 1]"
        torch._assert_async(inside, message)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
        return images_adv


@strict
class ThreatSection:
    """The section `threat` of params.yaml.

    `norm` names how the size of a change is measured. `epsilon` is the largest change, an exact fraction of the pixel
    range: of each pixel under `linf`, of the whole image under the others.
    """

    norm: str  # How the size of a change is measured.
    epsilon: NotNegativeFraction  # The largest change, a fraction of the pixel range.


def read_threat(norms: Mapping[str, type[Norm]], section: Any, where: str) -> Threat:
    """The threat model of a section: `{norm: linf, epsilon: 8/255}` becomes a ball of `norms["linf"]`.

    Errors: an unknown norm (lists the valid ones), unknown or missing keys, a radius that the norm does not have.
    """
    fields: ThreatSection = typed(ThreatSection, section, where)
    norm = choose(norms, fields.norm, f"{where}.norm")
    try:
        return Threat(norm=norm(), epsilon=fields.epsilon)
    except ValidationError as error:
        raise InputError(f"{where}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def require_pixels(images: Tensor) -> None:
    """Refuses images outside [0, 1], the usual sign that they were already normalised."""
    low, high = (float(bound) for bound in torch.aminmax(images))
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"images: pixels in [{low:.3f}, {high:.3f}], want [0, 1] (normalisation is the model's first layer)"
        )
