"""Alignment and inner products from random directions, against the exact kernel: no bias, and an honest error."""

import pytest
import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.ntk.directions import alignment_of_directions, inner_product
from components.ntk.kernels import sign_vectors, tangent_kernels
from components.ntk.metrics import alignment
from tests.parts.tangent_networks import random_images, small_net

LABELS = torch.arange(12) % 3


def full_kernel(num_parameters: int, seed: int = 0) -> Tensor:
    """A full kernel [12, C, 12, C] that prefers the classes; few parameters, so that a single direction is far off."""
    rng = torch.Generator().manual_seed(seed)
    gradients = torch.randn(12, 8, num_parameters, generator=rng, dtype=torch.float64)
    gradients += torch.randn(3, 8, num_parameters, generator=rng, dtype=torch.float64)[LABELS]
    return torch.einsum("icp,jdp->icjd", gradients, gradients)


def stack_of(full: Tensor, directions: int, seed: int) -> Tensor:
    signs = sign_vectors(full.shape[1], directions, seed).double()
    return torch.einsum("rc,icjd,rd->rij", signs, full, signs)


def trace_of(full: Tensor) -> Tensor:
    return full.diagonal(dim1=1, dim2=3).sum(2)


def test_alignment_is_without_the_bias_that_the_averaged_kernel_has() -> None:
    full = full_kernel(num_parameters=4)
    exact = alignment(trace_of(full), LABELS, 3)
    draws = [stack_of(full, 8, seed) for seed in range(400)]
    plain = torch.tensor([alignment(stack.mean(0), LABELS, 3) for stack in draws])
    ours = [alignment_of_directions(stack, LABELS, 3) for stack in draws]
    values, errors = (torch.tensor(each, dtype=torch.float64) for each in zip(*ours, strict=True))
    standard_error = float(values.std()) / 20
    # The plain estimate is low by many standard errors; ours by three, or by a tenth of that.
    assert plain.mean() - exact < -8 * standard_error
    assert abs(values.mean() - exact) < max(3 * standard_error, 0.1 * float(exact - plain.mean()))
    # The spread is hardly larger than before, and is what is stated.
    assert values.std() < 1.5 * plain.std()
    assert 0.7 * values.std() < errors.mean() < 1.3 * values.std()


def test_inner_products_have_no_bias() -> None:
    first, second = full_kernel(4), full_kernel(4, seed=1)
    for one, other in ((first, first), (first, second)):
        exact = float((trace_of(one) * trace_of(other)).sum())
        draws = torch.tensor([inner_product(stack_of(one, 4, seed), stack_of(other, 4, seed)) for seed in range(400)])
        assert abs(draws.mean() - exact) < 3 * draws.std() / 20
    plain = [float(stack_of(first, 4, seed).mean(0).square().sum()) for seed in range(400)]
    assert sum(plain) / 400 > 1.1 * float(trace_of(first).square().sum())


def test_many_directions_of_a_network_give_its_alignment() -> None:
    model, images = small_net().double(), random_images(12).double()
    kernels = tangent_kernels(model, images, {"trace", "directions"}, directions=64)
    exact = alignment(kernels["trace"], LABELS, 3)
    estimate = alignment_of_directions(kernels["directions"], LABELS, 3)
    assert abs(estimate.value - exact) < 3 * estimate.error < 0.1


def test_too_few_directions_are_one_line() -> None:
    stack = torch.ones(2, 12, 12).double()
    with pytest.raises(InputError, match="directions: got 2, want at least 3"):
        alignment_of_directions(stack, LABELS, 3)
    with pytest.raises(InputError, match="want two alike, of at least 2"):
        inner_product(stack[:1], stack[:1])
    with pytest.raises(InputError, match='directions: got 3, want "exact" or at least 4'):
        tangent_kernels(small_net(), random_images(2), {"directions"}, directions=3)
