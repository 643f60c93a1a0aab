"""What a norm is: the contract of every member of this family, and what a norm may offer beside it.

Images are [N, C, H, W] in [0, 1]. A radius or a step size is one number for all images or a tensor [N, 1, 1, 1].
Attacks never ask which norm it is. Where one needs more than the contract, it asks for a capability below, and refuses
a norm without it in one line.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.numerics.random_numbers import Rng
from components.threats.parts.squares import Squares


class StandardApgd(NamedTuple):
    """The settings of APGD in the standard AutoAttack: restarts of the untargeted one, classes of the targeted one."""

    restarts: int = 1
    targets: int = 9


@runtime_checkable
class Norm(Protocol):
    """A way to measure perturbations, and what follows from it.

    `name` is its key in params.yaml, `largest` the radius beyond which nothing changes whatever the images are (None:
    there is none), `standard` how AutoAttack runs APGD in it (None: AutoAttack knows no such norm), `by_pixel` whether
    a radius is the most that each number of an image may change, so that it counts in grey levels.
    """

    name: ClassVar[str]
    largest: ClassVar[Ratio | None]
    standard: ClassVar[StandardApgd | None]
    by_pixel: ClassVar[bool]

    def size(self, offset: Tensor) -> Tensor:
        """The norm of each image's perturbation (any axes after the first), [N]."""
        ...

    def project(self, images_adv: Tensor, images: Tensor, radius: float | Tensor) -> Tensor:
        """Points of the ball around `images` and of [0, 1] for `images_adv`, which may lie anywhere."""
        ...

    def random_start(self, images: Tensor, radius: float | Tensor, rng: Rng) -> Tensor:
        """Points drawn uniformly from the ball around `images`, then clipped to [0, 1]."""
        ...

    def random_edge(self, images: Tensor, radius: float | Tensor, rng: Rng) -> Tensor:
        """Random points as far from `images` as the ball and [0, 1] allow: where APGD starts."""
        ...

    def steepest_step(self, gradient: Tensor, step_size: float | Tensor, points: Tensor) -> Tensor:
        """The step of length `step_size` that raises a linear function with this gradient most.

        A norm may take into account how far each pixel of `points` can still move.
        """
        ...


@runtime_checkable
class Sparse(Norm, Protocol):
    """A norm in which good steps move few numbers of an image: how many is a question that an attack must answer."""

    def sparse_step(self, gradient: Tensor, step_size: float | Tensor, share: Tensor) -> Tensor:
        """A step of length `step_size` that moves the `share` [N, 1, 1, 1] of largest gradient, all by the same."""
        ...


@runtime_checkable
class Crossing(Norm, Protocol):
    """A norm that knows the way to a hyperplane, which FAB needs."""

    def onto_hyperplane(self, points: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
        """The shortest move of each point to {z in [0, 1]^D : normal · z = offset}; all are [N, D], offsets are [N].

        A box that misses the hyperplane gives the move to its corner nearest to it.
        """
        ...


@runtime_checkable
class Squared(Norm, Protocol):
    """A norm for which the Square attack has moves."""

    def squares(self, shape: Sequence[int], radius: float) -> Squares:
        """The moves on images of `shape` (C, H, W)."""
        ...


@runtime_checkable
class Cornered(Norm, Protocol):
    """A norm whose ball has a corner for every choice of signs."""

    def random_corner(self, images: Tensor, radius: float, rng: Rng) -> Tensor:
        """A perturbation of plus or minus the radius in every number of an image, not clipped."""
        ...


N = TypeVar("N", bound=Norm)


def require(norm: Norm, capability: type[N], who: str, want: str) -> N:
    """The norm, known to have the capability. Error: it has not; `want` says which norms have it."""
    if not isinstance(norm, capability):
        raise InputError(f"{who}: got norm {norm.name}, want {want}")
    return norm
