"""Every number of kernels against a formula written out in loops, on random kernels; and what all of them obey.

`TABLE` has an entry for every public function of the three modules: a new one without an entry fails.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.ntk import dynamics, features, metrics

C = 3
EPOCHS = (0.0, 0.25, 2.0, 5.0)
LABELS = (0, 0, 0, 1, 1, 2, 2)
SEEN = (0, 1, 2, 2, 1)
RIDGE = 0.01


class Case(NamedTuple):
    """Kernels of seven images at four checkpoints, of each class and of all logits, and with five other images."""

    kernels: Tensor  # [T, N, N]
    by_class: Tensor  # [C, N, N]
    full: Tensor  # [N C, N C]
    cross: Tensor  # [M, N]
    labels: Tensor

    def scaled(self, factor: float) -> "Case":
        kernels, by_class, full, cross = (part * factor for part in self[:4])
        return Case(kernels, by_class, full, cross, self.labels)

    def permuted(self) -> "Case":
        order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
        rows = (order[:, None] * C + torch.arange(C)).flatten()
        kernels, by_class = self.kernels[:, order][:, :, order], self.by_class[:, order][:, :, order]
        return Case(kernels, by_class, self.full[rows][:, rows], self.cross[:, order], self.labels[order])

    @property
    def kernel(self) -> Tensor:
        return self.kernels[-1]

    @property
    def spectrum(self) -> metrics.Spectrum:
        return metrics.spectrum(self.kernel)


def random_case() -> Case:
    rng = torch.Generator().manual_seed(3)
    first, *steps = torch.rand(len(EPOCHS), 12, 8, generator=rng).double()
    factors = [first]
    for step in steps:
        factors.append(factors[-1] + 0.4 * step)
    grams = torch.stack([factor @ factor.T for factor in factors])
    logits = torch.randn(len(LABELS) * C, 40, generator=rng).double() + 0.5
    full = logits @ logits.T
    by_class = torch.stack([full[c::C, c::C] for c in range(C)])
    n = len(LABELS)
    return Case(grams[:, :n, :n], by_class, full, grams[-1, n:, :n], torch.tensor(LABELS))


# Formulas in plain Python, on lists of floats.

Matrix = list[list[float]]


def listed(kernel: Tensor) -> Matrix:
    return kernel.tolist()


def dot(one: Matrix, other: Matrix) -> float:
    return sum(a * b for row, line in zip(one, other, strict=True) for a, b in zip(row, line, strict=True))


def cosine(one: Matrix, other: Matrix) -> float:
    return dot(one, other) / math.sqrt(dot(one, one) * dot(other, other))


def minus(one: Matrix, other: Matrix) -> Matrix:
    return [[a - b for a, b in zip(row, line, strict=True)] for row, line in zip(one, other, strict=True)]


def eigenpairs(kernel: Tensor) -> tuple[list[float], Matrix]:
    """Descending eigenvalues, and eigenvectors as rows."""
    values, vectors = np.linalg.eigh(kernel.numpy())
    return [float(value) for value in values[::-1]], vectors.T[::-1].tolist()


def rebuilt(kernel: Tensor, chosen: slice) -> Matrix:
    values, vectors = eigenpairs(kernel)
    pairs = list(zip(values, vectors, strict=True))[chosen]
    size = range(len(kernel))
    return [[sum(value * vector[i] * vector[j] for value, vector in pairs) for j in size] for i in size]


def one_hot(labels: Tensor) -> Matrix:
    return [[float(label == c) for c in range(C)] for label in labels.tolist()]


def minus_column_means(rows: Matrix) -> Matrix:
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return [[value - mean for value, mean in zip(row, means, strict=True)] for row in rows]


def centred(kernel: Matrix) -> Matrix:
    once = minus_column_means(kernel)
    return [list(row) for row in zip(*minus_column_means([list(row) for row in zip(*once, strict=True)]), strict=True)]


def outer(rows: Matrix) -> Matrix:
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]


def entropy_rank(kernel: Tensor) -> float:
    values = eigenpairs(kernel)[0]
    shares = [value / sum(values) for value in values]
    return math.exp(-sum(share * math.log(share) for share in shares))


def ratio(kernel: Tensor) -> float:
    return sum(kernel[i, i].item() for i in range(len(kernel))) ** 2 / dot(listed(kernel), listed(kernel))


def mass(kernel: Tensor, count: int) -> float:
    squares = [value**2 for value in eigenpairs(kernel)[0]]
    return sum(squares[:count]) / sum(squares)


def dimension(kernel: Tensor) -> float:
    values = eigenpairs(kernel)[0]
    return sum(values) / values[0]


def plain_alignment(case: Case) -> float:
    return cosine(centred(listed(case.kernel)), centred(outer(one_hot(case.labels))))


def plain_full_alignment(case: Case) -> float:
    targets = minus_column_means(one_hot(case.labels))
    size, blocks = range(len(LABELS)), {}
    for a in range(C):
        for b in range(C):
            blocks[a, b] = centred([[case.full[i * C + a, j * C + b].item() for j in size] for i in size])
    top = sum(
        targets[i][a] * blocks[a, b][i][j] * targets[j][b]
        for a in range(C)
        for b in range(C)
        for i in size
        for j in size
    )
    norm = math.sqrt(sum(dot(block, block) for block in blocks.values()))
    return top / norm / dot(targets, targets)


def plain_specialisation(case: Case, centre: bool) -> list[Any]:
    targets = one_hot(case.labels)
    targets = minus_column_means(targets) if centre else targets
    fits = []
    for kernel in case.by_class:
        matrix = centred(listed(kernel)) if centre else listed(kernel)
        columns = [[row[d] for row in targets] for d in range(C)]
        quadratic = [
            sum(y[i] * matrix[i][j] * y[j] for i in range(len(y)) for j in range(len(y))) / sum(v * v for v in y)
            for y in columns
        ]
        fits.append([value / math.sqrt(dot(matrix, matrix)) for value in quadratic])
    found = [[fits[c][d] / (sum(fits[e][d] for e in range(C)) / C) for d in range(C)] for c in range(C)]
    return [found, sum(found[c][c] for c in range(C)) / C]


def plain_polar(kernels: list[Matrix]) -> list[list[float]]:
    ways = [minus(kernel, kernels[0]) for kernel in kernels]
    radius = [math.sqrt(dot(way, way) / dot(ways[-1], ways[-1])) for way in ways]
    return [radius, [math.acos(min(1, cosine(kernel, kernels[0]))) for kernel in kernels]]


def plain_answers(case: Case) -> Matrix:
    kernel = case.kernel.numpy()
    ridge = RIDGE * np.trace(kernel) / len(kernel)
    return (case.cross.numpy() @ np.linalg.solve(kernel + ridge * np.eye(len(kernel)), one_hot(case.labels))).tolist()


def plain_features(case: Case) -> list[Matrix]:
    values, vectors = eigenpairs(case.kernel)
    ridge, targets = RIDGE * sum(values) / len(values), one_hot(case.labels)
    found = []
    for value, vector in zip(values, vectors, strict=True):
        seen = [sum(k * v for k, v in zip(row, vector, strict=True)) / (value + ridge) for row in listed(case.cross)]
        along = [sum(v * row[c] for v, row in zip(vector, targets, strict=True)) for c in range(C)]
        found.append([[a * b for b in along] for a in seen])
    return found


def plain_accuracy(answers: Matrix) -> float:
    return sum(row.index(max(row)) == label for row, label in zip(answers, SEEN, strict=True)) / len(SEEN)


def plain_feature_accuracies(case: Case) -> list[list[float]]:
    found, total, summed = plain_features(case), [[0.0] * C for _ in SEEN], []
    for feature in found:
        total = [[a + b for a, b in zip(row, line, strict=True)] for row, line in zip(total, feature, strict=True)]
        summed.append(plain_accuracy(total))
    return [[plain_accuracy(feature) for feature in found], summed]


def plain_power(case: Case) -> list[float]:
    targets = minus_column_means(one_hot(case.labels))
    along = [
        sum(sum(v * row[c] for v, row in zip(vector, targets, strict=True)) ** 2 for c in range(C))
        for vector in eigenpairs(case.kernel)[1]
    ]
    return [value / dot(targets, targets) for value in along]


def plain_distance(one: Tensor, other: Tensor) -> float:
    return 1 - cosine(listed(one), listed(other))


def plain_metrics(case: Case) -> dict[str, float]:
    first, *_, previous, kernel = case.kernels
    before = plain_distance(kernel, previous)
    return {
        "distance_previous": before,
        "distance_first": plain_distance(kernel, first),
        "effective_rank": entropy_rank(kernel),
        "participation_ratio": ratio(kernel),
        "intrinsic_dimension": dimension(kernel),
        "top10_mass": mass(kernel, 10),
        "top20_mass": mass(kernel, 20),
        "alignment": plain_alignment(case),
        "trace": sum(kernel[i, i].item() for i in range(len(kernel))),
        "velocity": before / 0.5,
        "distance_clean": plain_distance(kernel, first),
    }


def of_alone(*right: int) -> features.FeatureAccuracies:
    """How many of the 40 images each feature has right."""
    alone = torch.tensor(right).double() / len(HALVES)
    return features.FeatureAccuracies(alone, alone)


HALVES = torch.tensor([0, 1] * 20)
Sides = tuple[Callable[[Case], Any], Callable[[Case], Any]]
# Ours, and the formula in loops.
TABLE: dict[str, Sides] = {
    "kernel_metrics": (
        lambda case: metrics.kernel_metrics(
            case.kernel, case.labels, C, case.kernels[-2], case.kernels[0], elapsed=0.5, clean=case.kernels[0]
        ),
        plain_metrics,
    ),
    "spectrum_metrics": (
        lambda case: list(metrics.spectrum_metrics(metrics.eigenvalues(case.kernel)).values()),
        lambda case: [entropy_rank(case.kernel), ratio(case.kernel), dimension(case.kernel), 1.0, 1.0],
    ),
    "spectrum": (lambda case: case.spectrum.values, lambda case: eigenpairs(case.kernel)[0]),
    "eigenvalues": (lambda case: metrics.eigenvalues(case.kernel), lambda case: eigenpairs(case.kernel)[0]),
    "effective_rank": (
        lambda case: metrics.effective_rank(case.spectrum.values),
        lambda case: entropy_rank(case.kernel),
    ),
    "participation_ratio": (
        lambda case: metrics.participation_ratio(case.spectrum.values),
        lambda case: ratio(case.kernel),
    ),
    "intrinsic_dimension": (
        lambda case: metrics.intrinsic_dimension(case.spectrum.values),
        lambda case: dimension(case.kernel),
    ),
    "top_mass": (
        lambda case: [metrics.top_mass(case.spectrum.values, count) for count in (1, 2, 5)],
        lambda case: [mass(case.kernel, count) for count in (1, 2, 5)],
    ),
    "kernel_distance": (
        lambda case: metrics.kernel_distance(case.kernel, case.kernels[0]),
        lambda case: plain_distance(case.kernel, case.kernels[0]),
    ),
    "velocity": (lambda case: metrics.velocity(0.3, 0.25), lambda case: 1.2),
    "alignment": (lambda case: metrics.alignment(case.kernel, case.labels, C), plain_alignment),
    "full_alignment": (lambda case: metrics.full_alignment(case.full, case.labels, C), plain_full_alignment),
    "specialisation": (
        lambda case: [list(metrics.specialisation(case.by_class, case.labels, each)) for each in (True, False)],
        lambda case: [plain_specialisation(case, each) for each in (True, False)],
    ),
    "centred_targets": (
        lambda case: metrics.centred_targets(case.labels, C).T @ metrics.centred_targets(case.labels, C),
        lambda case: outer([list(column) for column in zip(*minus_column_means(one_hot(case.labels)), strict=True)]),
    ),
    "unit": (
        lambda case: metrics.unit(case.kernel).square().sum() + metrics.unit(case.kernel).trace(),
        lambda case: 1 + math.sqrt(ratio(case.kernel)),
    ),
    "norm": (
        lambda case: metrics.norm(case.kernel),
        lambda case: math.sqrt(dot(listed(case.kernel), listed(case.kernel))),
    ),
    "distance_matrix": (
        lambda case: dynamics.distance_matrix(list(case.kernels)),
        lambda case: [[plain_distance(one, other) for other in case.kernels] for one in case.kernels],
    ),
    "velocities": (
        lambda case: dynamics.velocities(list(case.kernels), EPOCHS),
        lambda case: [
            plain_distance(case.kernels[t], case.kernels[t + 1]) / (EPOCHS[t + 1] - EPOCHS[t])
            for t in range(len(EPOCHS) - 1)
        ],
    ),
    "relative_movement": (
        lambda case: dynamics.relative_movement(case.kernel, case.kernels[0]),
        lambda case: (
            math.sqrt(dot(*[minus(listed(case.kernel), listed(case.kernels[0]))] * 2))
            / math.sqrt(dot(*[listed(case.kernels[0])] * 2))
        ),
    ),
    "polar_dynamics": (
        lambda case: list(dynamics.polar_dynamics(list(case.kernels))),
        lambda case: plain_polar([listed(kernel) for kernel in case.kernels]),
    ),
    "polar_parts": (
        lambda case: [list(part) for part in dynamics.polar_parts([metrics.spectrum(k) for k in case.kernels], 2)],
        lambda case: [
            plain_polar([rebuilt(kernel, chosen) for kernel in case.kernels]) for chosen in (slice(2), slice(2, None))
        ],
    ),
    "eigenpairs": (
        lambda case: dynamics.eigenpairs(case.spectrum, slice(1, 3)).diagonal() @ (case.labels + 1.0).double(),
        lambda case: sum(
            rebuilt(case.kernel, slice(1, 3))[i][i] * (label + 1) for i, label in enumerate(case.labels.tolist())
        ),
    ),
    "target_power": (lambda case: features.target_power(case.spectrum, case.labels, C), plain_power),
    "features": (
        lambda case: list(features.features(case.spectrum, case.labels, case.cross, C, RIDGE)),
        plain_features,
    ),
    "kernel_answers": (
        lambda case: features.kernel_answers(case.spectrum, case.labels, case.cross, C, RIDGE),
        plain_answers,
    ),
    "kernel_machine_accuracy": (
        lambda case: features.kernel_machine_accuracy(
            case.spectrum, case.labels, case.cross, torch.tensor(SEEN), C, RIDGE
        ),
        lambda case: plain_accuracy(plain_answers(case)),
    ),
    "feature_accuracies": (
        lambda case: list(
            features.feature_accuracies(case.spectrum, case.labels, case.cross, torch.tensor(SEEN), C, RIDGE)
        ),
        plain_feature_accuracies,
    ),
    # Of 40 images, half in a class: 26 or less are within 1.96 standard deviations of 20, 27 are not.
    "feature_kinds": (
        lambda case: list(features.feature_kinds(of_alone(40, 26, 27, 28), of_alone(20, 40, 27, 0), HALVES)),
        lambda case: [[True, False, True, True], [False, False, True, False]],
    ),
}
# What reads no kernel, and what has the unit of the kernel.
WITHOUT_KERNEL = {"velocity", "centred_targets", "feature_kinds"}
WITH_UNIT = {"kernel_metrics", "spectrum", "eigenvalues", "norm", "eigenpairs"}


def flat(value: Any) -> list[float]:
    if isinstance(value, Tensor):
        return value.double().flatten().tolist()
    if isinstance(value, dict):
        return flat([value[name] for name in sorted(value)])
    return [number for each in value for number in flat(each)] if isinstance(value, list) else [float(value)]


def test_every_number_has_a_formula() -> None:
    public = {
        name
        for module in (metrics, dynamics, features)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert set(TABLE) == public


@pytest.mark.parametrize("name", TABLE)
def test_a_number_equals_its_formula(name: str) -> None:
    ours, plain = TABLE[name]
    case = random_case()
    assert flat(ours(case)) == pytest.approx(flat(plain(case)), rel=1e-9, abs=2e-8 if "polar" in name else 1e-12)


@pytest.mark.parametrize("name", TABLE)
def test_the_order_of_the_images_does_not_matter(name: str) -> None:
    ours, case = TABLE[name][0], random_case()
    assert flat(ours(case.permuted())) == pytest.approx(flat(ours(case)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("factor", [1e-250, 1e250])
@pytest.mark.parametrize("name", sorted(set(TABLE) - WITH_UNIT))
def test_the_scale_does_not_matter(name: str, factor: float) -> None:
    ours, case = TABLE[name][0], random_case()
    assert flat(ours(case.scaled(factor))) == pytest.approx(flat(ours(case)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", sorted(WITH_UNIT - {"kernel_metrics"}))
def test_a_kernels_unit_is_kept(name: str) -> None:
    ours, case = TABLE[name][0], random_case()
    assert flat(ours(case.scaled(1e-250))) == pytest.approx([1e-250 * each for each in flat(ours(case))], rel=1e-9)


@pytest.mark.parametrize("name", TABLE)
def test_a_zero_kernel_has_finite_numbers(name: str) -> None:
    values = flat(TABLE[name][0](random_case().scaled(0)))
    assert all(math.isfinite(value) for value in values)
    if name not in WITHOUT_KERNEL | {"kernel_machine_accuracy", "feature_accuracies", "target_power"}:
        assert not any(values)


@pytest.mark.parametrize("name", sorted(set(TABLE) - WITHOUT_KERNEL))
def test_a_kernel_that_is_not_finite_is_refused(name: str) -> None:
    case = random_case()
    for part in case[:4]:
        part[..., 1, 0] = float("nan")
    with pytest.raises(InputError, match=r"not finite|want finite"):
        TABLE[name][0](case)
