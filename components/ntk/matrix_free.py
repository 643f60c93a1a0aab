"""Numbers of a kernel without the kernel: products with it, its trace, norm, quadratic forms and largest eigenvalues.

K = J J^T, so K u takes one pass back (J^T u) and one of forward derivatives (J times that), batch by batch: memory
grows neither with N^2 nor with the number of classes. The estimators take any symmetric positive map, by its `product`.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from components.foundation.errors import InputError
from components.ntk.differentiation import Pass, differentiable
from components.ntk.grams import Effort
from components.ntk.memory import MIB, Choice, Needs, choose
from components.ntk.parameter_uses import Survey, survey
from components.numerics.random_numbers import derived

Product = Callable[[Tensor], Tensor]
"""A symmetric positive semi-definite map of float64 vectors [M]."""

_GRAPHS = 3  # A forward derivative and the pass back take about this many times what the graph keeps.


class Estimate(NamedTuple):
    """A value and its standard error: 0 where it is exact."""

    value: float
    error: float


class Eigenvalues(NamedTuple):
    """The largest eigenvalues, the largest first, and how far each is at most from an eigenvalue of the map."""

    values: Tensor  # Float64 [k], as the bounds.
    bounds: Tensor


class TangentOperator:
    """The full kernel of a model on images as a linear map of [N, C], and the trace kernel as one of [N].

    Args:
        model: logits [N, C]; it is left as it was. Every operation needs forward derivatives, as those of torch have.
        images: [N, ...] on the model's device.
        memory: MiB for the passes of one batch, estimated; None: all images at once.

    Attributes: `num_images`, `num_logits`, `choice`.
    Errors: too little memory, images that depend on each other.
    """

    def __init__(self, model: nn.Module, images: Tensor, memory: float | None = None) -> None:
        self._model, self._images = model, images
        self._parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        with self._derivatives():
            seen = survey(model, images)
        self.num_images, self.num_logits = len(images), seen.num_logits
        self.choice = _batches(seen, len(images), memory)

    def full(self, vectors: Tensor) -> Tensor:
        """sum over j, d of K_icjd u_jd, for u [N, C]; in the precision of u."""
        return self.pushed(self.pulled(vectors)).to(vectors)

    def trace(self, vectors: Tensor) -> Tensor:
        """The trace kernel times a vector [N]: C products with the kernels of single logits."""
        total = torch.zeros_like(vectors)
        for index in range(self.num_logits):
            spread = vectors.new_zeros(self.num_images, self.num_logits)
            spread[:, index] = vectors
            total += self.full(spread)[:, index]
        return total

    def flat(self, vectors: Tensor) -> Tensor:
        """`full` for vectors [N C], as the estimators take it."""
        return self.full(vectors.view(self.num_images, self.num_logits)).flatten()

    def pulled(self, vectors: Tensor) -> dict[str, Tensor]:
        """J^T u for u [N, C]: the gradient of sum u_ic f_ic, by the name of each parameter. One pass back."""
        total = {name: torch.zeros_like(each) for name, each in self._parameters.items()}
        with self._derivatives():
            size = self.choice.images_at_once
            for images, some in zip(self._images.split(size), vectors.split(size), strict=True):
                logits = self._model(images)
                target = (logits * some.to(logits)).sum()
                gradients = torch.autograd.grad(target, list(self._parameters.values()), allow_unused=True)
                for name, gradient in zip(total, gradients, strict=True):
                    if gradient is not None:
                        total[name] += gradient
        return total

    def pushed(self, tangents: dict[str, Tensor]) -> Tensor:
        """J w, [N, C], for a change w of each parameter."""
        parameters = {name: each.detach() for name, each in self._parameters.items()}
        rows = []
        with self._derivatives(), torch.no_grad():
            for images in self._images.split(self.choice.images_at_once):

                def logits(values: dict[str, Tensor], images: Tensor = images) -> Tensor:
                    return functional_call(self._model, values, (images,))

                rows.append(jvp(logits, (parameters,), (tangents,))[1])
        return torch.cat(rows)

    @contextmanager
    def _derivatives(self) -> Iterator[None]:
        # Fused attention has no forward derivatives.
        with differentiable(self._model, self._images), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            # torch says so of code of its own when its forward derivatives are first used.
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
            yield


def quadratic_form(operator: TangentOperator, targets: Tensor) -> float:
    """y^T K y = sum over i, c, j, d of y_ic K_icjd y_jd, for targets [N, C]: |J^T y|^2, from one pass back."""
    return sum(float(each.double().square().sum()) for each in operator.pulled(targets).values())


def quadratic_form_per_class(operator: TangentOperator, targets: Tensor) -> Tensor:
    """y_c^T K^c y_c for each logit's kernel and column of targets [N, C], float64 [C]: one pass back for each.

    With one-hot targets this is what kernel-target alignment has above the line, at any N.
    """
    values = []
    for index in range(operator.num_logits):
        only = torch.zeros_like(targets)
        only[:, index] = targets[:, index]
        values.append(quadratic_form(operator, only))
    return torch.tensor(values, dtype=torch.float64)


class ExactTrace(NamedTuple):
    """The trace of a kernel, and how it was computed."""

    value: float
    choice: Choice


def exact_trace(model: nn.Module, images: Tensor, memory: float | None = None) -> ExactTrace:
    """The trace of the full kernel and of the trace kernel: the squared norms of all gradients, one pass per logit.

    Errors: too little memory, images that depend on each other.
    """
    with differentiable(model, images):
        seen = survey(model, images)
        choice = choose(Needs(seen, seen.num_logits, 1, 0, images.element_size(), grams=False), len(images), memory)
        total = 0.0
        for some in images.split(choice.images_at_once):
            whole = Pass(model, some, seen, Effort(1, 1, choice.chunk))
            for vector in torch.eye(seen.num_logits).to(whole.logits):
                for layer, deltas in whole.derivatives(vector[None], whole.layers):
                    for piece in layer.gradients(deltas, max(1, choice.chunk // len(some))):
                        total += float(piece.double().square().sum())
    return ExactTrace(total, choice)


def trace_estimate(product: Product, size: int, num_products: int, seed: int) -> Estimate:
    """Hutch++ (Meyer et al. 2021, arXiv 2010.09649, algorithm 1): the trace of a map from `num_products` products.

    A third of them finds the range of the largest eigenvalues, whose trace is exact; a third is spent on it, and a
    third on random signs for the rest, whose error is what `error` estimates. Exact from `size` products on.
    Error: fewer than 6 products.
    """
    if num_products < 6:
        raise InputError(f"products: got {num_products}, want at least 6")
    if num_products >= size:
        eye = torch.eye(size, dtype=torch.float64)
        return Estimate(sum(float(product(row)[index]) for index, row in enumerate(eye)), 0.0)
    third = num_products // 3
    starts = torch.stack([product(row) for row in _signs(third, size, seed, "range")], 1)
    basis = torch.linalg.qr(starts).Q
    inside = sum(float(column @ product(column)) for column in basis.T)
    rest = []
    for row in _signs(num_products - 2 * third, size, seed, "rest"):
        outside = row - basis @ (basis.T @ row)
        rest.append(float(outside @ product(outside)))
    mean, error = _mean(rest)
    return Estimate(inside + mean, error)


def squared_norm_estimate(product: Product, size: int, num_products: int, seed: int) -> Estimate:
    """|K|_F^2, without bias, as the mean of |K v|^2 over random signs v (Hutchinson 1990). Error: fewer than 2."""
    if num_products < 2:
        raise InputError(f"products: got {num_products}, want at least 2")
    return Estimate(*_mean([float(product(row).square().sum()) for row in _signs(num_products, size, seed, "norm")]))


def largest_eigenvalues(
    product: Product, size: int, count: int, seed: int, tolerance: float = 1e-6, max_products: int = 300
) -> Eigenvalues:
    """The `count` largest eigenvalues by Lanczos with full reorthogonalisation.

    It ends when every bound is below `tolerance` times the largest eigenvalue, or after `max_products` products; read
    the bounds. A multiple eigenvalue is found once, then again from what rounding adds.

        >>> matrix = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
        >>> largest_eigenvalues(lambda vector: matrix @ vector, 6, 2, seed=0).values.round(decimals=6)
        tensor([6., 5.], dtype=torch.float64)

    Error: a count outside of 1 to size.
    """
    if not 1 <= count <= size:
        raise InputError(f"count: got {count}, want 1 to {size}")
    rng = torch.Generator().manual_seed(derived(seed, "lanczos"))
    basis = torch.zeros(size, 0, dtype=torch.float64)
    vector = torch.randn(size, generator=rng, dtype=torch.float64)
    alphas: list[float] = []
    betas: list[float] = []
    limit = min(size, max(max_products, count))
    while True:
        basis = torch.cat([basis, (vector / vector.norm())[:, None]], 1)
        image = product(basis[:, -1])
        alphas.append(float(basis[:, -1] @ image))
        vector = _outside(basis, image)
        beta = float(vector.norm())
        triangle = torch.diag(torch.tensor(alphas, dtype=torch.float64))
        triangle += torch.diag(off := torch.tensor(betas, dtype=torch.float64), 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(triangle)
        bounds = beta * vectors[-1].abs().flip(0)[:count]
        values = values.flip(0)[:count]
        if len(alphas) >= limit or (len(values) == count and bool((bounds <= tolerance * values[0].abs()).all())):
            return Eigenvalues(values, bounds)
        if beta <= torch.finfo(torch.float64).eps * float(values[0].abs()):
            # The space is invariant: what is outside of it may hold more.
            beta, vector = 0.0, _outside(basis, torch.randn(size, generator=rng, dtype=torch.float64))
        betas.append(beta)


def _outside(basis: Tensor, vector: Tensor) -> Tensor:
    """What of a vector is orthogonal to the basis; twice, since once leaves what rounding leaves."""
    for _ in range(2):
        vector = vector - basis @ (basis.T @ vector)
    return vector


def _signs(count: int, size: int, seed: int, use: str) -> Tensor:
    rng = torch.Generator().manual_seed(derived(seed, "probes", use))
    return torch.randint(0, 2, (count, size), generator=rng).double() * 2 - 1


def _mean(values: list[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    each = torch.tensor(values, dtype=torch.float64)
    return float(each.mean()), float(each.std() / math.sqrt(len(values)))


def _batches(seen: Survey, num_images: int, memory: float | None) -> Choice:
    """How many images go through the model at once."""
    size = num_images
    while memory is not None and size > 1 and _GRAPHS * size * seen.saved > memory * MIB:
        size = -(-size // 2)
    mib = _GRAPHS * size * seen.saved / MIB
    if memory is not None and mib > memory:
        raise InputError(f"memory: got {memory:g} MiB, want at least {math.ceil(mib)} for one image of this model")
    return Choice(size, len(seen.sizes), len(seen.sizes), 0, mib, ())
