"""What the kernel of a network would classify by itself, and which of its eigenvectors do it: NTK features.

The kernel machine answers k(x, X) (K + r)^-1 Y, with K the kernel of training images X, Y their one-hot labels and r a
share `ridge` of K's mean diagonal entry. In K's eigenvectors the answer is a sum: its i-th term, k(x, X) v_i v_i^T Y /
(λ_i + r), is a *feature* (Tsilivis and Kempe 2022, arXiv 2210.05577). A trace kernel serves all logits at once.
"""

from collections.abc import Iterator
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.ntk.centring import one_hot
from components.ntk.metrics import TINY, Spectrum, centred_targets

RIDGE = 1e-3
Z = NormalDist().inv_cdf(0.975)


class FeatureAccuracies(NamedTuple):
    """Accuracy on M images, float64 [N] each: of every feature alone, and of the sum of the first ones up to it.

    A feature alone names at most two of the classes: the largest and the smallest entry of v_i^T Y.
    """

    alone: Tensor
    summed: Tensor


class FeatureKinds(NamedTuple):
    """Which features say more than chance, bool [N] each: `useful` on clean images, `robust` on attacked ones too."""

    useful: Tensor
    robust: Tensor


def target_power(spectrum: Spectrum, labels: Tensor, num_classes: int) -> Tensor:
    """The share of the centred one-hot labels along each eigenvector: |v_i^T Y|^2 / |Y|^2, float64 [N], of sum 1.

    Its cumulative sum says how many eigenvectors it takes to tell the classes. 0 throughout with a single class.
    """
    targets = centred_targets(labels, num_classes)
    return (spectrum.vectors.T @ targets).square().sum(1) / targets.square().sum().clamp_min(TINY)


def features(
    spectrum: Spectrum, train_labels: Tensor, cross: Tensor, num_classes: int, ridge: float
) -> Iterator[Tensor]:
    """The answers [M, C] of each feature, the largest eigenvalue first; together they are `kernel_answers`.

    Args: as of `kernel_answers`.
    """
    targets = one_hot(train_labels, num_classes)
    along, inverse = spectrum.vectors.T @ targets, _inverse(spectrum, ridge)
    seen = _scaled(cross, spectrum) @ spectrum.vectors
    for index in range(len(inverse)):
        yield torch.outer(seen[:, index] * inverse[index], along[index])


def kernel_answers(
    spectrum: Spectrum, train_labels: Tensor, cross: Tensor, num_classes: int, ridge: float = RIDGE
) -> Tensor:
    """What the kernel machine answers for M images, float64 [M, C].

    Args:
        spectrum: of the kernel of N training images.
        train_labels: int64 [N], theirs.
        cross: [M, N], the kernel between the M images and the training images; of attacked images too.
        num_classes: of the labels.
        ridge: r over the mean diagonal entry of the kernel, at least 0. Eigenvalues that rounding alone makes differ
            from 0 are left out.

    Errors: `cross` has another number of columns, or is not finite; ridge is below 0.
    """
    targets = one_hot(train_labels, num_classes)
    along = spectrum.vectors.T @ targets * _inverse(spectrum, ridge)[:, None]
    return _scaled(cross, spectrum) @ spectrum.vectors @ along


def kernel_machine_accuracy(
    spectrum: Spectrum,
    train_labels: Tensor,
    cross: Tensor,
    labels: Tensor,
    num_classes: int,
    ridge: float = RIDGE,
) -> float:
    """The share of M images, with `labels` [M], that the kernel machine has right; see `kernel_answers`.

    Of equal answers the first class counts. Beside the accuracy of the network it says how much of it the kernel
    explains (Fort et al. 2020, arXiv 2010.15110).
    """
    return _accuracy(kernel_answers(spectrum, train_labels, cross, num_classes, ridge), labels)


def feature_accuracies(
    spectrum: Spectrum,
    train_labels: Tensor,
    cross: Tensor,
    labels: Tensor,
    num_classes: int,
    ridge: float = RIDGE,
) -> FeatureAccuracies:
    """Of each feature, on M images of which `cross` [M, N] is the kernel with the N training images.

    Called with the kernel of clean and with that of attacked images; `feature_kinds` compares the two.
    """
    total = torch.zeros(len(cross), num_classes, dtype=torch.float64)
    alone, summed = [], []
    for feature in features(spectrum, train_labels, cross, num_classes, ridge):
        total += feature
        alone.append(_accuracy(feature, labels))
        summed.append(_accuracy(total, labels))
    return FeatureAccuracies(torch.tensor(alone, dtype=torch.float64), torch.tensor(summed, dtype=torch.float64))


def feature_kinds(clean: FeatureAccuracies, adversarial: FeatureAccuracies, labels: Tensor) -> FeatureKinds:
    """Useful: the accuracy alone is above the share of the commonest class, which needs no image, beyond chance.

    Beyond chance: by a score test at 2.5 %, that is, the lower end of Wilson's 95 % interval is above that share.
    Robust: useful, and the same holds for the attacked images. `labels`: int64 [M], of both.
    """
    share = int(labels.bincount().max()) / len(labels)
    bound = share + Z * (share * (1 - share) / len(labels)) ** 0.5
    return FeatureKinds(clean.alone > bound, (clean.alone > bound) & (adversarial.alone > bound))


def _accuracy(answers: Tensor, labels: Tensor) -> float:
    return float((answers.argmax(1) == labels).double().mean())


def _inverse(spectrum: Spectrum, ridge: float) -> Tensor:
    """1 / (λ_i + r), with the mean eigenvalue as unit; 0 for a λ_i that is nothing but rounding where r is 0 too."""
    if ridge < 0:
        raise InputError(f"ntk: ridge {ridge:g}, want at least 0")
    values = _in_means(spectrum.values, spectrum)
    kept = (values > len(values) * torch.finfo(torch.float64).eps * values.max()) | (ridge > 0)
    return torch.where(kept, 1 / (values + ridge).clamp_min(TINY), 0)


def _scaled(cross: Tensor, spectrum: Spectrum) -> Tensor:
    size = len(spectrum.values)
    if cross.ndim != 2 or not len(cross) or cross.shape[1] != size or not bool(cross.isfinite().all()):
        wanted = f"finite numbers [M, {size}] of at least one image"
        raise InputError(f"ntk: the cross kernel is {list(cross.shape)}, want {wanted}")
    return _in_means(cross.double(), spectrum)


def _in_means(numbers: Tensor, spectrum: Spectrum) -> Tensor:
    """Numbers over the mean eigenvalue, which is the mean diagonal entry; those of a zero kernel are 0."""
    largest = spectrum.values.max().clamp_min(TINY)
    mean = (spectrum.values / largest).mean()
    return numbers / largest / mean if mean > 0 else torch.zeros_like(numbers)
