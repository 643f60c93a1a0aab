"""Numbers of a kernel without the kernel, against the kernel."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.foundation.errors import InputError
from components.ntk.kernels import tangent_kernels
from components.ntk.matrix_free import (
    TangentOperator,
    exact_trace,
    largest_eigenvalues,
    quadratic_form,
    quadratic_form_per_class,
    squared_norm_estimate,
    trace_estimate,
)
from tests.parts.tangent_networks import NUM_CLASSES, random_images, relative_error, small_net, tiny_transformer

EXACT = 1e-12
COUNT = 5
NETWORKS = pytest.mark.parametrize("build", [small_net, tiny_transformer], ids=lambda build: build.__name__)


def matrix(size: int, decay: float) -> Tensor:
    """A positive matrix with the eigenvalues decay^i."""
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(size, size, generator=rng, dtype=torch.float64)).Q
    return basis * decay ** torch.arange(size).double() @ basis.T


@NETWORKS
def test_products_and_forms_are_those_of_the_kernel(build: Callable[[], nn.Module]) -> None:
    model, images = build().double(), random_images(COUNT).double()
    exact = tangent_kernels(model, images, {"full", "per_class", "trace"})
    whole = TangentOperator(model, images)
    assert (whole.num_images, whole.num_logits) == (COUNT, NUM_CLASSES)
    batches = TangentOperator(model, images, memory=0.5 * whole.choice.mib)
    assert whole.choice.images_at_once == COUNT > batches.choice.images_at_once
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(COUNT, NUM_CLASSES, generator=rng, dtype=torch.float64)
    targets = functional.one_hot(torch.arange(COUNT) % NUM_CLASSES, NUM_CLASSES).double()
    for operator in (whole, batches):
        assert relative_error(operator.full(vectors), torch.einsum("icjd,jd->ic", exact["full"], vectors)) < EXACT
        assert relative_error(operator.flat(vectors.flatten()), operator.full(vectors).flatten()) < EXACT
        assert relative_error(operator.trace(vectors[:, 0]), exact["trace"] @ vectors[:, 0]) < EXACT
        wanted = float(torch.einsum("ic,icjd,jd->", vectors, exact["full"], vectors))
        assert quadratic_form(operator, vectors) == pytest.approx(wanted, rel=EXACT)
        by_class = torch.einsum("ic,cij,jc->c", targets, exact["per_class"], targets)
        assert relative_error(quadratic_form_per_class(operator, targets), by_class) < EXACT
    trace = exact_trace(model, images)
    part = exact_trace(model, images, memory=0.5 * trace.choice.mib)
    assert part.choice.mib <= 0.5 * trace.choice.mib and part.choice != trace.choice
    assert trace.value == pytest.approx(float(exact["trace"].trace()), rel=EXACT) == part.value


def test_model_is_left_as_it_was() -> None:
    model, images = small_net(), random_images(3)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        operator = TangentOperator(model, images)
        operator.full(torch.ones(3, NUM_CLASSES))
    assert model.training and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("decay", [0.6, 0.97])
def test_trace_and_norm_are_within_their_errors(decay: float) -> None:
    kernel = matrix(40, decay)
    wanted = {"trace": float(kernel.trace()), "norm": float(kernel.square().sum())}
    for name, estimate, count in (("trace", trace_estimate, 18), ("norm", squared_norm_estimate, 18)):
        draws = [estimate(lambda vector: kernel @ vector, 40, count, seed) for seed in range(100)]
        values = torch.tensor([each.value for each in draws])
        # Without bias; nine in ten within three of their own standard errors, of 6 or 18 probes.
        assert abs(values.mean() - wanted[name]) < 3 * values.std() / 10, name
        assert sum(abs(each.value - wanted[name]) <= 3 * each.error for each in draws) >= 90, name
    assert trace_estimate(lambda vector: kernel @ vector, 40, 40, 0) == (pytest.approx(wanted["trace"]), 0)


def test_finding_the_range_first_is_better_than_random_signs_alone() -> None:
    """Hutch++ against Hutchinson with as many products, on a spectrum that falls fast."""
    kernel = matrix(60, 0.5)
    rng = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (100, 18, 60), generator=rng).double() * 2 - 1
    plain = torch.einsum("rsi,ij,rsj->r", signs, kernel, signs) / 18
    ours = torch.tensor([trace_estimate(lambda vector: kernel @ vector, 60, 18, seed).value for seed in range(100)])
    assert ours.std() < 0.3 * plain.std()


@NETWORKS
def test_estimates_of_a_network(build: Callable[[], nn.Module]) -> None:
    model, images = build().double(), random_images(4).double()
    operator, size = TangentOperator(model, images), 4 * NUM_CLASSES
    kernel = tangent_kernels(model, images, {"full"})["full"]
    kernel = kernel.reshape(size, size)
    trace, norm = trace_estimate(operator.flat, size, 12, 0), squared_norm_estimate(operator.flat, size, 12, 0)
    assert abs(trace.value - float(kernel.trace())) < 4 * trace.error < 0.5 * float(kernel.trace())
    assert abs(norm.value - float(kernel.square().sum())) < 4 * norm.error < 2 * float(kernel.square().sum())
    wanted = torch.linalg.eigvalsh(kernel).flip(0)[:4]
    largest = largest_eigenvalues(operator.flat, size, 4, seed=0)
    assert relative_error(largest.values, wanted) < 1e-9
    assert bool(((largest.values - wanted).abs() <= largest.bounds + 1e-9 * wanted[0]).all())
    by_trace = tangent_kernels(model, images, {"trace"})["trace"]
    values = largest_eigenvalues(operator.trace, 4, 2, seed=0).values
    assert relative_error(values, torch.linalg.eigvalsh(by_trace).flip(0)[:2]) < 1e-9


def test_eigenvalues_stop_at_their_limit_and_go_beyond_an_invariant_space() -> None:
    kernel = matrix(50, 0.95)
    wanted = torch.linalg.eigvalsh(kernel).flip(0)
    calls = []
    early = largest_eigenvalues(lambda vector: calls.append(1) or kernel @ vector, 50, 3, 0, max_products=8)
    assert len(calls) == 8 and bool((early.bounds > 1e-4).any())
    assert bool(((early.values[:, None] - wanted).abs().min(1).values <= early.bounds).all())
    calls.clear()
    exact = largest_eigenvalues(lambda vector: calls.append(1) or kernel @ vector, 50, 3, 0)
    assert relative_error(exact.values, wanted[:3]) < 1e-9 and len(calls) < 50
    few = torch.diag(torch.tensor([3.0, 3.0, 1.0, 0.0, 0.0]).double())
    assert torch.allclose(
        largest_eigenvalues(lambda vector: few @ vector, 5, 5, 0).values, few.diagonal().sort(descending=True).values
    )


def test_mistakes_are_one_line() -> None:
    def product(vector: Tensor) -> Tensor:
        return vector

    with pytest.raises(InputError, match="count: got 6, want 1 to 5"):
        largest_eigenvalues(product, 5, 6, 0)
    with pytest.raises(InputError, match="products: got 5, want at least 6"):
        trace_estimate(product, 9, 5, 0)
    with pytest.raises(InputError, match="products: got 1, want at least 2"):
        squared_norm_estimate(product, 9, 1, 0)
    with pytest.raises(InputError, match="memory: got 1e-06 MiB, want at least 1 for one image"):
        TangentOperator(small_net(), random_images(2), memory=1e-6)
