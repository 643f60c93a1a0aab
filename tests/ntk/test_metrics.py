"""The numbers of kernels small enough to work out by hand, and the identities between them."""

import math

import pytest
import torch
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.ntk import dynamics, features, metrics


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values).double())


def random_kernel(size: int, seed: int = 0, rank: int | None = None) -> Tensor:
    factor = torch.randn(size, rank or size, generator=torch.Generator().manual_seed(seed)).double()
    return factor @ factor.T


# One kernel.


def test_distance_ignores_scale_and_sees_orthogonal_kernels() -> None:
    kernel = random_kernel(5)
    assert metrics.kernel_distance(kernel, 7 * kernel) < 1e-12
    one, other = diagonal(1, 0, 0), diagonal(0, 1, 1)
    assert metrics.kernel_distance(one, other) == 1
    assert metrics.kernel_distance(one, one + other) == pytest.approx(1 - 3**-0.5)


def test_distance_is_symmetric_and_zero_for_proportional_kernels_only() -> None:
    kernel, other = random_kernel(4), random_kernel(4, seed=1)
    assert metrics.kernel_distance(kernel, other) == metrics.kernel_distance(other, kernel) > 0.01
    nudged = kernel + diagonal(1e-4, 0, 0, 0)
    assert metrics.kernel_distance(kernel, nudged) > 1e-11
    zero = torch.zeros(4, 4)
    assert metrics.kernel_distance(zero, zero) == 0
    assert metrics.kernel_distance(zero, kernel) == metrics.kernel_distance(kernel, zero) == 1


def test_ranks_and_mass_of_known_spectra() -> None:
    identity, single = torch.ones(12).double(), torch.tensor([5.0] + [0.0] * 11).double()
    for rank in (metrics.effective_rank, metrics.participation_ratio, metrics.intrinsic_dimension):
        assert rank(identity) == pytest.approx(12)
        assert rank(single) == pytest.approx(1)
    known = torch.tensor([3.0, 1.0]).double()
    assert metrics.effective_rank(known) == pytest.approx(4 / 3**0.75)
    assert metrics.participation_ratio(known) == pytest.approx(1.6)
    assert metrics.intrinsic_dimension(known) == pytest.approx(4 / 3)
    assert metrics.top_mass(known, 1) == pytest.approx(0.9)
    assert metrics.top_mass(identity, 10) == pytest.approx(10 / 12)


def test_spectrum_is_descending_and_not_negative_and_rebuilds_the_kernel() -> None:
    kernel = random_kernel(6, rank=2)
    values, vectors = metrics.spectrum(kernel)
    assert bool((values >= 0).all()) and bool((values.diff() <= 0).all())
    assert float(values.sum()) == pytest.approx(float(kernel.trace()))
    assert torch.allclose(vectors @ torch.diag(values) @ vectors.T, kernel)
    assert torch.allclose(metrics.eigenvalues(kernel), values)


def test_participation_ratio_is_that_of_trace_and_norm() -> None:
    kernel = random_kernel(6)
    wanted = float(kernel.trace()) ** 2 / metrics.norm(kernel) ** 2
    assert metrics.participation_ratio(metrics.eigenvalues(kernel)) == pytest.approx(wanted)


def test_alignment_of_the_target_kernel_is_one() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    targets = nn.functional.one_hot(labels, 3).double()
    assert metrics.alignment(targets @ targets.T, labels, 3) == pytest.approx(1)
    # A constant added to a kernel is what centring removes; the identity knows no class.
    assert metrics.alignment(targets @ targets.T + 100, labels, 3) == pytest.approx(1)
    assert metrics.alignment(torch.eye(6).double(), labels, 3) < 0.7
    assert metrics.alignment(torch.full((6, 6), 0.1).double(), labels, 3) == 0


def test_full_alignment_sees_what_the_trace_cannot() -> None:
    labels = torch.tensor([0, 1, 1, 2])
    targets = metrics.centred_targets(labels, 3)
    flat = targets.flatten()
    assert metrics.full_alignment(torch.outer(flat, flat), labels, 3) == pytest.approx(1)
    # The same kernel for each logit, without cross terms: only its fit with Y Y^T counts, over the root of the classes.
    kernel = random_kernel(4)
    full = torch.kron(kernel, torch.eye(3).double())
    gram = targets @ targets.T
    wanted = metrics.alignment(kernel, labels, 3) * float(gram.norm() / gram.trace()) / 3**0.5
    assert metrics.full_alignment(full, labels, 3) == pytest.approx(wanted)
    with pytest.raises(InputError, match=r"full kernel is \[4, 4\], want \[12, 12\]"):
        metrics.full_alignment(kernel, labels, 3)


def test_specialisation_by_hand() -> None:
    # Two images, one per class. Kernel 0 knows the first image alone; kernel 1 knows both alike.
    kernels = torch.stack([diagonal(2, 0), diagonal(1, 1)])
    matrix, scalar = metrics.specialisation(kernels, torch.tensor([0, 1]), centred=False)
    half = 0.5**0.5
    wanted = torch.tensor([[2 / (1 + half), 0.0], [2 * half / (1 + half), 2.0]]).double()
    assert torch.allclose(matrix, wanted)
    assert scalar == pytest.approx((2 / (1 + half) + 2) / 2)


@pytest.mark.parametrize("centred", [True, False])
def test_columns_of_the_specialisation_average_to_one(centred: bool) -> None:
    kernels = torch.stack([random_kernel(8, seed) for seed in range(4)])
    labels = torch.tensor([0, 1, 1, 2, 2, 0, 1, 0])  # No image of the last class.
    matrix, scalar = metrics.specialisation(kernels, labels, centred)
    assert torch.allclose(matrix.mean(0), torch.tensor([1.0, 1, 1, 0]).double())
    assert scalar == pytest.approx(float(matrix.diagonal()[:3].mean()))
    same = metrics.specialisation(kernels[:1].expand(4, 8, 8), labels, centred)
    assert same.scalar == pytest.approx(1)


def test_metrics_of_a_hand_made_kernel() -> None:
    kernel, labels = diagonal(3, 1), torch.tensor([0, 1])
    wanted = {
        "distance_previous": 0,
        "distance_first": 1 - 4 / 20**0.5,
        "effective_rank": 4 / 3**0.75,
        "participation_ratio": 1.6,
        "intrinsic_dimension": 4 / 3,
        "top10_mass": 1,
        "top20_mass": 1,
        "alignment": 1,
        "trace": 4,
    }
    first = torch.eye(2).double()
    values = metrics.kernel_metrics(kernel, labels, 2, previous=2 * kernel, first=first)
    assert values == pytest.approx(wanted, abs=1e-12)
    more = metrics.kernel_metrics(kernel, labels, 2, previous=first, first=first, elapsed=0.5, clean=diagonal(1, 0))
    moved = 1 - 4 / 20**0.5
    wanted |= {"distance_previous": moved, "velocity": 2 * moved, "distance_clean": 1 - 3 / 10**0.5}
    assert more == pytest.approx(wanted, abs=1e-12)


# Several checkpoints.


def test_distance_matrix_by_hand() -> None:
    found = dynamics.distance_matrix([diagonal(1, 0), diagonal(0, 2), diagonal(3, 3), torch.zeros(2, 2)])
    half = 1 - 0.5**0.5
    wanted = [[0, 1, half, 1], [1, 0, half, 1], [half, half, 0, 1], [1, 1, 1, 0]]
    assert torch.allclose(found, torch.tensor(wanted).double())
    assert torch.equal(found, found.T) and not found.diagonal().any()


def test_polar_dynamics_begin_at_zero_and_end_at_one() -> None:
    # From the first kernel straight away, then turned by a right angle.
    radius, angle = dynamics.polar_dynamics([diagonal(1, 0), diagonal(3, 0), diagonal(1, 1), diagonal(0, 1)])
    assert radius.tolist() == pytest.approx([0, 2 / 2**0.5, 1 / 2**0.5, 1])
    assert angle.tolist() == pytest.approx([0, 0, math.pi / 4, math.pi / 2])
    still = dynamics.polar_dynamics([diagonal(1, 0)] * 3)
    assert not still.radius.any() and not still.angle.any()


def test_polar_parts_follow_the_eigenpairs() -> None:
    # The leading pair only grows; the rest turns by a right angle.
    kernels = [diagonal(9, 1, 0), diagonal(18, 1, 1), diagonal(27, 0, 1)]
    top, rest = dynamics.polar_parts([metrics.spectrum(kernel) for kernel in kernels], count=1)
    assert top.radius.tolist() == pytest.approx([0, 0.5, 1]) and not top.angle.any()
    assert rest.radius.tolist() == pytest.approx([0, 0.5**0.5, 1])
    assert rest.angle.tolist() == pytest.approx([0, math.pi / 4, math.pi / 2])


def test_parts_of_a_kernel_sum_to_it() -> None:
    kernel = random_kernel(6)
    spectrum = metrics.spectrum(kernel)
    parts = dynamics.eigenpairs(spectrum, slice(2)) + dynamics.eigenpairs(spectrum, slice(2, None))
    assert torch.allclose(parts, kernel)


def test_a_small_turn_keeps_its_digits() -> None:
    angle = dynamics.polar_dynamics([diagonal(1, 0), torch.tensor([[1, 1e-9], [1e-9, 0]]).double()]).angle[1]
    assert float(angle) == pytest.approx(2**0.5 * 1e-9, rel=1e-6)


def test_movement_is_relative_to_the_first_kernel() -> None:
    assert dynamics.relative_movement(diagonal(3, 0), diagonal(1, 0)) == 2
    assert dynamics.relative_movement(diagonal(1, 0), torch.zeros(2, 2)) == 0


@pytest.mark.parametrize("epochs", [(0, 0, 1), (0, 2, 1)])
def test_epochs_that_do_not_rise_have_no_velocity(epochs: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="epochs between two kernels, want more than 0"):
        dynamics.velocities([diagonal(1, 0)] * 3, epochs)


# Features.


def test_features_sum_to_the_answers() -> None:
    kernel, labels = random_kernel(9), torch.tensor([0, 1, 2, 0, 1, 2])
    spectrum, cross = metrics.spectrum(kernel[:6, :6]), kernel[6:, :6]
    for ridge in (0, 0.1):
        answers = features.kernel_answers(spectrum, labels, cross, 3, ridge)
        assert torch.allclose(sum(features.features(spectrum, labels, cross, 3, ridge), torch.zeros(3, 3)), answers)
    last = features.feature_accuracies(spectrum, labels, cross, torch.tensor([1, 0, 2]), 3).summed[-1]
    assert last == features.kernel_machine_accuracy(spectrum, labels, cross, torch.tensor([1, 0, 2]), 3)


def test_kernel_machine_without_ridge_knows_its_training_images() -> None:
    kernel, labels = random_kernel(6), torch.tensor([2, 1, 0, 0, 1, 2])
    answers = features.kernel_answers(metrics.spectrum(kernel), labels, kernel, 3, ridge=0)
    assert torch.allclose(answers, nn.functional.one_hot(labels, 3).double())
    # A kernel of rank 2 is inverted where it is more than rounding.
    kernel = random_kernel(6, rank=2)
    answers = features.kernel_answers(metrics.spectrum(kernel), labels, kernel, 3, ridge=0)
    wanted = kernel @ torch.linalg.pinv(kernel, hermitian=True) @ nn.functional.one_hot(labels, 3).double()
    assert torch.allclose(answers, wanted)


def test_features_of_a_diagonal_kernel() -> None:
    # Each eigenvector is an image, so a feature answers with this image's class where the new image is like it.
    labels, cross = torch.tensor([0, 1]), torch.tensor([[4.0, 0.0], [0.0, 1.0], [-4.0, 1.0]]).double()
    first, second = features.features(metrics.spectrum(diagonal(4, 1)), labels, cross, 2, ridge=0)
    assert torch.allclose(first, torch.tensor([[1.0, 0], [0, 0], [-1, 0]]).double())
    assert torch.allclose(second, torch.tensor([[0.0, 0], [0, 1], [0, 1]]).double())
    found = features.feature_accuracies(metrics.spectrum(diagonal(4, 1)), labels, cross, torch.tensor([0, 1, 1]), 2)
    # Equal answers are the first class.
    assert found.alone.tolist() == pytest.approx([2 / 3, 1]) and found.summed.tolist() == pytest.approx([2 / 3, 1])


def test_a_feature_names_at_most_two_classes() -> None:
    kernel, labels = random_kernel(60), torch.arange(40) % 5
    for feature in features.features(metrics.spectrum(kernel[:40, :40]), labels, kernel[40:, :40], 5, 0.01):
        assert len(feature.argmax(1).unique()) <= 2


def test_target_power_by_hand() -> None:
    # The targets of two balanced classes are along (1, 1, -1, -1), which is the second eigenvector.
    along, constant = torch.tensor([1.0, 1, -1, -1]).double(), torch.ones(4).double()
    kernel = 3 * torch.outer(constant, constant) + torch.outer(along, along) + 0.1 * torch.eye(4).double()
    labels = torch.tensor([0, 0, 1, 1])
    power = features.target_power(metrics.spectrum(kernel), labels, 2)
    assert power.tolist() == pytest.approx([0, 1, 0, 0], abs=1e-12)
    power = features.target_power(metrics.spectrum(random_kernel(4)), labels, 2)
    assert float(power.cumsum(0)[-1]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("cross", "ridge", "message"),
    [
        (torch.ones(2, 3), 0.1, r"cross kernel is \[2, 3\], want finite numbers \[M, 4\]"),
        (torch.ones(0, 4), 0.1, r"cross kernel is \[0, 4\]"),
        (torch.full((2, 4), math.nan), 0.1, "want finite numbers"),
        (torch.ones(2, 4), -0.1, r"ridge -0\.1, want at least 0"),
    ],
)
def test_what_a_kernel_machine_cannot_use_is_refused(cross: Tensor, ridge: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        features.kernel_answers(metrics.spectrum(random_kernel(4)), torch.tensor([0, 1, 0, 1]), cross, 2, ridge)
