"""Numbers that describe a kernel: how many directions it uses, how well it fits the labels, how far it is from another.

Kernels are symmetric, positive semi-definite, float64 [N, N]. All numbers but trace and norm ignore a kernel's scale;
they first divide by the largest entry, so that no scale over- or underflows. A zero kernel has rank 0, mass 0 and
alignment 0. A kernel that is not finite is an error.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.ntk.centring import double_centred, one_hot

TINY = torch.finfo(torch.float64).tiny
ROUNDING = 1e-13  # Of a kernel of norm 1: what is smaller is not there.


class Spectrum(NamedTuple):
    """The eigendecomposition of a kernel: computed once, shared by all numbers that need it.

    `values` are float64 [N], the largest first; those that rounding made negative are 0. Column i of `vectors` [N, N]
    belongs to value i.
    """

    values: Tensor
    vectors: Tensor


class Specialisation(NamedTuple):
    """Which class's kernel fits which class's labels: `matrix` float64 [C, C], and `scalar`, the mean of its diagonal.

    A column of `matrix` averages to 1. It is 0 where no kernel fits the class at all, as for a class without images;
    such classes are left out of `scalar`, which is 0 without any other.
    """

    matrix: Tensor
    scalar: float


def kernel_metrics(
    kernel: Tensor,
    labels: Tensor,
    num_classes: int,
    previous: Tensor | None,
    first: Tensor | None,
    elapsed: float | None = None,
    clean: Tensor | None = None,
) -> dict[str, float]:
    """distance_previous, distance_first, the numbers of `spectrum_metrics`, alignment and trace.

    With `previous` and `elapsed` also velocity, with `clean` also distance_clean.

    Args:
        kernel: float64 [N, N].
        labels: int64 [N].
        previous: the kernel of the probe before, of the same images; None where this one is the first, at distance 0.
        first: the first kernel of the same images; None likewise.
        elapsed: the epochs between `previous` and `kernel`, which may be a fraction, above 0.
        clean: the kernel of the same images without an attack, where `kernel` is that of attacked ones.

    Errors: a kernel that is not finite.
    """
    before = 0.0 if previous is None else kernel_distance(kernel, previous)
    found = {
        "distance_previous": before,
        "distance_first": 0.0 if first is None else kernel_distance(kernel, first),
        **spectrum_metrics(eigenvalues(kernel)),
        "alignment": alignment(kernel, labels, num_classes),
        "trace": float(kernel.trace()),
    }
    if previous is not None and elapsed is not None:
        found["velocity"] = velocity(before, elapsed)
    if clean is not None:
        found["distance_clean"] = kernel_distance(kernel, clean)
    return found


def spectrum_metrics(values: Tensor) -> dict[str, float]:
    """effective_rank, participation_ratio, intrinsic_dimension, top10_mass and top20_mass, of eigenvalues [N]."""
    return {
        "effective_rank": effective_rank(values),
        "participation_ratio": participation_ratio(values),
        "intrinsic_dimension": intrinsic_dimension(values),
        "top10_mass": top_mass(values, 10),
        "top20_mass": top_mass(values, 20),
    }


def spectrum(kernel: Tensor) -> Spectrum:
    """Eigenvalues and eigenvectors of a kernel [N, N]. Errors: it is not finite."""
    values, vectors = torch.linalg.eigh(_finite(kernel))
    return Spectrum(values.flip(0).clamp_min(0), vectors.flip(1))


def eigenvalues(kernel: Tensor) -> Tensor:
    """The values of `spectrum` alone, for less than half of its time. Errors: the kernel is not finite."""
    return torch.linalg.eigvalsh(_finite(kernel)).flip(0).clamp_min(0)


def effective_rank(values: Tensor) -> float:
    """exp(-sum p ln p) with p the eigenvalues over their sum, in [1, N] (Roy and Vetterli 2007)."""
    shares = _shares(values)
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum())) if shares.any() else 0.0


def participation_ratio(values: Tensor) -> float:
    """(sum of eigenvalues)^2 / sum of their squares = (tr K)^2 / |K|^2, in [1, N]."""
    shares = _shares(values)
    return float(1 / shares.square().sum()) if shares.any() else 0.0


def intrinsic_dimension(values: Tensor) -> float:
    """The sum of the eigenvalues over the largest = tr K / lambda_1, in [1, N]."""
    shares = _shares(values)
    return float(1 / shares.max()) if shares.any() else 0.0


def top_mass(values: Tensor, count: int) -> float:
    """The share of the `count` largest in the sum of *squared* eigenvalues, which are sorted, the largest first.

    Tsilivis and Kempe 2022, arXiv 2210.05577 (their released code squares).
    """
    squares = _shares(values).square()
    return float(squares[:count].sum() / squares.sum().clamp_min(TINY))


def kernel_distance(kernel: Tensor, other: Tensor) -> float:
    """1 - <K, K'> / (|K| |K'|) in Frobenius norms, in [0, 1] (Fort et al. 2020, arXiv 2010.15110).

    A zero kernel is at distance 0 of a zero kernel and at 1 of every other. Errors: a kernel that is not finite.
    """
    one, two = unit(kernel), unit(other)
    return max(0.0, 1 - _inner(one, two)) if one.any() or two.any() else 0.0


def velocity(distance: float, elapsed: float) -> float:
    """A kernel distance per epoch, `elapsed` being the epochs between the two kernels (Fort et al. 2020).

    Errors: they are not above 0.
    """
    if not elapsed > 0:
        raise InputError(f"ntk: {elapsed:g} epochs between two kernels, want more than 0")
    return distance / elapsed


def alignment(kernel: Tensor, labels: Tensor, num_classes: int) -> float:
    """Centred kernel-target alignment: the cosine of HKH and H Y Y^T H, in [0, 1]; Y one-hot, H = I - 1/N.

    Cortes et al. 2012, arXiv 1203.0550, eq. 4; for tangent kernels Baratin et al. 2021, arXiv 2008.00938.
    """
    targets = centred_targets(labels, num_classes)
    return _inner(_centred_unit(kernel), unit(targets @ targets.T))


def full_alignment(kernel: Tensor, labels: Tensor, num_classes: int) -> float:
    """The same of a full kernel [N C, N C]: y^T Θ y / (|Θ| |y|^2), y the N C centred one-hot targets, Θ centred.

    Row n C + c is logit c of image n. Each pair of logits is centred over the images, which is what centring the
    Jacobian does (Baratin et al. 2021, arXiv 2008.00938). Errors: the kernel has another size.
    """
    num_images = len(labels)
    if kernel.shape != (num_images * num_classes,) * 2:
        wanted = f"[{num_images * num_classes}, {num_images * num_classes}]"
        raise InputError(f"ntk: the full kernel is {list(kernel.shape)}, want {wanted}")
    blocks = kernel.view(num_images, num_classes, num_images, num_classes).permute(1, 3, 0, 2)
    targets = centred_targets(labels, num_classes).flatten()
    flat = _centred_unit(blocks).permute(2, 0, 3, 1).reshape(kernel.shape)
    return float(targets @ flat @ targets / targets.square().sum().clamp_min(TINY))


def specialisation(kernels: Tensor, labels: Tensor, centred: bool) -> Specialisation:
    """A(K^c, y_d) over its mean over c, with A(K, y) = y^T K y / (|K| |y|^2) and y_d the d-th column of one-hot labels.

    Shan and Bordelon 2021, arXiv 2105.14301. The scalar is the mean over d of A(K^d, y_d) over that mean.

    Args:
        kernels: float64 [C, N, N], class c's the kernel of logit c.
        labels: int64 [N].
        centred: whether K and y are centred over the images first, so that what all images share does not count.
    """
    num_classes = len(kernels)
    targets = centred_targets(labels, num_classes) if centred else one_hot(labels, num_classes)
    fits = kernels.new_zeros(num_classes, num_classes, dtype=torch.float64)
    for row, kernel in zip(fits, kernels, strict=True):
        row += (targets * ((_centred_unit(kernel) if centred else unit(kernel)) @ targets)).sum(0)
    fits = fits.clamp_min(0) / targets.square().sum(0).clamp_min(TINY)
    means = fits.mean(0)
    matrix = fits / means.clamp_min(TINY)
    return Specialisation(matrix, float(matrix.diagonal().sum() / (means > 0).sum().clamp_min(1)))


def centred_targets(labels: Tensor, num_classes: int) -> Tensor:
    """The one-hot labels [N, C] minus their mean, float64."""
    targets = one_hot(labels, num_classes)
    return targets - targets.mean(0)


def unit(kernel: Tensor) -> Tensor:
    """The kernel (or kernels, of any shape, as one vector) over its Frobenius norm, float64; zero stays zero.

    Errors: it is not finite.
    """
    kernel = _finite(kernel)
    kernel = kernel / kernel.abs().max().clamp_min(TINY)
    return kernel / kernel.norm().clamp_min(TINY)


def norm(kernel: Tensor) -> float:
    """The Frobenius norm, in float64. Errors: the kernel is not finite."""
    kernel = _finite(kernel)
    largest = kernel.abs().max()
    return float(largest * (kernel / largest.clamp_min(TINY)).norm())


def _finite(kernel: Tensor) -> Tensor:
    # The decomposition of a kernel with NaN fails with a message of its own on one machine and hangs on another.
    if not bool(kernel.isfinite().all()):
        raise InputError("ntk: the kernel is not finite")
    return kernel.double()


def _centred_unit(kernel: Tensor) -> Tensor:
    """`double_centred` over its norm."""
    rest = double_centred(unit(kernel))
    # What rounding leaves of a constant kernel would become a kernel of norm 1.
    return unit(rest) if rest.norm() > ROUNDING else torch.zeros_like(rest)


def _shares(values: Tensor) -> Tensor:
    values = values / values.max().clamp_min(TINY)
    return values / values.sum().clamp_min(TINY)


def _inner(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape, f"kernels of {list(one.shape)} and {list(other.shape)}"
    return float((one * other).sum())
