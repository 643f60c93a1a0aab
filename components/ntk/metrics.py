"""Numbers that describe a kernel: how far it moved, how many directions it uses, how well it fits the labels.

Kernels are symmetric, positive semi-definite, float64 [N, N]. All but the trace ignore a kernel's scale.
"""

import torch
from torch import Tensor
from torch.nn import functional

TINY = torch.finfo(torch.float64).tiny


def kernel_metrics(
    kernel: Tensor, labels: Tensor, num_classes: int, previous: Tensor | None, first: Tensor | None
) -> dict[str, float]:
    """distance_previous, distance_first, effective_rank, participation_ratio, top10_mass, alignment and trace.

    Args:
        kernel: float64 [N, N].
        labels: int64 [N].
        previous: the kernel of the probe before, of the same images; None where this one is the first, at distance 0.
        first: the first kernel of the same images; None likewise.
    """
    eigenvalues = spectrum(kernel)
    return {
        "distance_previous": 0.0 if previous is None else kernel_distance(kernel, previous),
        "distance_first": 0.0 if first is None else kernel_distance(kernel, first),
        "effective_rank": effective_rank(eigenvalues),
        "participation_ratio": participation_ratio(eigenvalues),
        "top10_mass": top_mass(eigenvalues, 10),
        "alignment": alignment(kernel, labels, num_classes),
        "trace": float(kernel.trace()),
    }


def spectrum(kernel: Tensor) -> Tensor:
    """The eigenvalues, float64 [N], the largest first; those that rounding made negative are 0."""
    return torch.linalg.eigvalsh(kernel.double()).flip(0).clamp_min(0)


def kernel_distance(kernel: Tensor, other: Tensor) -> float:
    """1 - <K, K'> / (|K| |K'|) in Frobenius norms, in [0, 1] (Fort et al. 2020, arXiv 2010.15110)."""
    return max(0.0, 1 - _cosine(kernel, other))


def effective_rank(eigenvalues: Tensor) -> float:
    """exp(-sum p ln p) with p the eigenvalues over their sum, in [1, N] (Roy and Vetterli 2007)."""
    shares = eigenvalues / eigenvalues.sum().clamp_min(TINY)
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def participation_ratio(eigenvalues: Tensor) -> float:
    """(sum of eigenvalues)^2 / sum of their squares = (tr K)^2 / |K|^2, in [1, N]."""
    shares = eigenvalues / eigenvalues.sum().clamp_min(TINY)
    return float(1 / shares.square().sum().clamp_min(TINY))


def top_mass(eigenvalues: Tensor, count: int) -> float:
    """The share of the `count` largest in the sum of *squared* eigenvalues.

    Tsilivis and Kempe 2022, arXiv 2210.05577 (their released code squares).
    """
    squares = eigenvalues.square()
    return float(squares[:count].sum() / squares.sum().clamp_min(TINY))


def alignment(kernel: Tensor, labels: Tensor, num_classes: int) -> float:
    """Centred kernel-target alignment: the cosine of HKH and H Y Y^T H, in [0, 1]; Y one-hot, H = I - 1/N.

    Cortes et al. 2012, arXiv 1203.0550, eq. 4; for tangent kernels Baratin et al. 2021, arXiv 2008.00938.
    """
    targets = functional.one_hot(labels, num_classes).double()
    targets = targets - targets.mean(0)
    centred = kernel - kernel.mean(0, keepdim=True) - kernel.mean(1, keepdim=True) + kernel.mean()
    return _cosine(centred, targets @ targets.T)


def _cosine(kernel: Tensor, other: Tensor) -> float:
    # Each is divided by its own norm first: the product of two norms overflows or vanishes sooner. Zero gives 0.
    return float(((kernel / kernel.norm().clamp_min(TINY)) * (other / other.norm().clamp_min(TINY))).sum())
