"""Numbers of one kernel over several checkpoints of a training run, of the same images: float64 [N, N] each, T of them.

The first checkpoint is the reference; epochs may be fractions. What two kernels alone say is in `metrics`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from components.ntk.metrics import Spectrum, kernel_distance, norm, unit, velocity


class Polar(NamedTuple):
    """How far each kernel is from the first: float64 [T] each.

    `radius` is |K_t - K_0| / |K_T - K_0|, from 0 to 1 at the last; 0 throughout where the last is the first. `angle` is
    that between K_t and K_0, in radians, in [0, π/2]; unlike the radius it ignores a kernel's scale.
    """

    radius: Tensor
    angle: Tensor


class PolarParts(NamedTuple):
    """Polar dynamics of each kernel's own `top` eigenpairs, and of the `rest`."""

    top: Polar
    rest: Polar


def distance_matrix(kernels: Sequence[Tensor]) -> Tensor:
    """`kernel_distance` of all pairs of checkpoints, float64 [T, T]: symmetric, with zeros on the diagonal."""
    rows = torch.stack([unit(kernel).flatten() for kernel in kernels])
    distances = (1 - rows @ rows.T).clamp_min(0)
    distances = (distances + distances.T) / 2
    zero = ~rows.any(1)
    return distances.fill_diagonal_(0).masked_fill(zero[:, None] & zero, 0)


def velocities(kernels: Sequence[Tensor], epochs: Sequence[float]) -> Tensor:
    """The kernel distance per epoch between each checkpoint and the next one, float64 [T - 1].

    A distance grows with the square of a short way, so that velocities over unequal numbers of epochs are comparable
    in their order of magnitude only. Errors: epochs that do not rise.
    """
    steps = zip(pairwise(kernels), pairwise(epochs), strict=True)
    found = [velocity(kernel_distance(*pair), end - start) for pair, (start, end) in steps]
    return torch.tensor(found, dtype=torch.float64)


def relative_movement(kernel: Tensor, first: Tensor) -> float:
    """|K - K_0| / |K_0| in Frobenius norms (Geiger et al. 2020, arXiv 1906.08034); scale counts.

    0 where K_0 is zero, since nothing is relative to it. Errors: a kernel that is not finite.
    """
    reference = norm(first)
    return norm(kernel - first) / reference if reference else 0.0


def polar_dynamics(kernels: Sequence[Tensor]) -> Polar:
    """Radius and angle of each kernel (Tsilivis and Kempe 2022, arXiv 2210.05577, section 5)."""
    first = unit(kernels[0])
    moved = torch.tensor([norm(kernel - kernels[0]) for kernel in kernels], dtype=torch.float64)
    angles = torch.stack([_angle(unit(kernel), first) for kernel in kernels])
    return Polar(moved / moved[-1] if moved[-1] else torch.zeros_like(moved), angles)


def polar_parts(spectra: Sequence[Spectrum], count: int = 20) -> PolarParts:
    """Polar dynamics of what each kernel does on its own `count` leading eigenpairs, and on the others."""
    top = [eigenpairs(each, slice(count)) for each in spectra]
    rest = [eigenpairs(each, slice(count, None)) for each in spectra]
    return PolarParts(polar_dynamics(top), polar_dynamics(rest))


def eigenpairs(spectrum: Spectrum, chosen: slice) -> Tensor:
    """The part of a kernel that the `chosen` eigenpairs make: sum over them of λ v v^T, float64 [N, N]."""
    vectors = spectrum.vectors[:, chosen]
    return (vectors * spectrum.values[chosen]) @ vectors.T


def _angle(one: Tensor, other: Tensor) -> Tensor:
    # Of kernels of norm 1 or 0. Exact near 0, where the arc cosine loses half of the digits.
    return 2 * torch.atan2((one - other).norm(), (one + other).norm())
