"""Parameter gradients shortened to k numbers by a seeded random projection: kernels where P or N is too large.

The projection is a count sketch (Charikar et al. 2002; feature hashing, Weinberger et al. 2009, arXiv 0902.2206): each
parameter gets a random sign and goes to one of k places. Inner products are unbiased, with at most the variance of a
dense random-sign matrix, which would cost k times as much. Within a piece of the gradients the places are a random
permutation, so that each gets as many parameters and nothing is added in an order that chance decides.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.ntk.differentiation import Pass, differentiable
from components.ntk.grams import Effort
from components.ntk.memory import Choice, Needs, choose
from components.ntk.parameter_uses import survey
from components.numerics.random_numbers import derived

_ROUNDS, _COLUMNS = 8, 2**13  # A piece has this many columns, and each place this many times at least.


class Sketch(NamedTuple):
    """Projected gradients, float64 [N, C, k] on the CPU. Their inner products estimate those of the gradients."""

    features: Tensor
    choice: Choice

    def full(self) -> Tensor:
        """An unbiased estimate of the full kernel, [N, C, N, C]."""
        rows = self.features.flatten(0, 1)
        return (rows @ rows.T).view(*self.features.shape[:2], *self.features.shape[:2])

    def per_class(self) -> Tensor:
        """An unbiased estimate of each logit's kernel, [C, N, N]."""
        by_class = self.features.transpose(0, 1)
        return by_class @ by_class.mT

    def trace(self) -> Tensor:
        """An unbiased estimate of the trace kernel, [N, N]."""
        rows = self.features.flatten(1)
        return rows @ rows.T

    def error(self, kind: Literal["full", "per_class", "trace"]) -> float:
        """At most this is the root mean square error of this estimate, over the Frobenius norm of the kernel.

        sqrt((1 + PR) / k) for full and per_class, with PR = (tr K)^2 / |K|^2 the participation ratio. The mean is over
        seeds, the kernel's numbers are estimated from the sketch itself. For per_class it is that of the worst class.
        """
        k = self.features.shape[2]
        full = self.full()
        size = full.shape[0] * full.shape[1]
        if kind == "full":
            return _relative_error(full.reshape(size, size), k)
        if kind == "per_class":
            return max(_relative_error(kernel, k) for kernel in self.per_class())
        # sum over i, j of the variance of sum_c <x_ic, x_jc>: (|sum_i K_icic'|^2 + |K|^2) / k.
        between = full.diagonal(dim1=0, dim2=2).sum(2).square().sum()
        return math.sqrt(float((between + full.square().sum()) / k)) / float(self.trace().norm())


def sketch(model: nn.Module, images: Tensor, k: int, seed: int, memory: float | None = None) -> Sketch:
    """The gradients of every logit of every image, projected to k numbers each.

    Keep the seed for all epochs that are compared. `memory` (MiB) bounds what is allocated at once, whatever the number
    of parameters, but for those in `choice.apart`; the features do not depend on it.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> sketch(model, torch.rand(5, 1, 2, 2), k=64, seed=0).trace().shape
        torch.Size([5, 5])

    Errors: k below 1, too little memory, images that depend on each other.
    """
    if k < 1:
        raise InputError(f"k: got {k}, want at least 1")
    with differentiable(model, images):
        seen = survey(model, images)
        needs = Needs(seen, seen.num_logits, seen.num_logits, 0, images.element_size(), grams=False)
        choice = choose(needs, len(images), memory)
        blocks = [
            _features(Pass(model, some, seen, Effort(1, 1, choice.chunk)), choice, k, seed)
            for some in images.split(choice.images_at_once)
        ]
    return Sketch(torch.cat(blocks).cpu(), choice)


def _features(whole: Pass, choice: Choice, k: int, seed: int) -> Tensor:
    """[N, C, k]."""
    size, num_logits = whole.logits.shape
    total = whole.logits.new_zeros((size * num_logits, k), dtype=torch.float64)
    vectors = torch.eye(num_logits).to(whole.logits)
    for start in range(0, len(whole.layers), choice.layers_at_once):
        some = whole.layers[start : start + choice.layers_at_once]
        for layer, deltas in whole.derivatives(vectors, some):
            for index, piece in enumerate(layer.gradients(deltas, max(_ROUNDS * k, _COLUMNS))):
                total += _projected(piece, k, derived(seed, "sketch", layer.name, index))
    return total.view(size, num_logits, k)


def _projected(rows: Tensor, k: int, seed: int) -> Tensor:
    """Rows [M, P] to [M, k]."""
    length = rows.shape[1]
    rng = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (length,), generator=rng).to(rows) * 2 - 1
    # Zeros fill the last round, so that any two parameters meet with a probability of 1 / k at most.
    rounds = -(-length // k)
    order = torch.randperm(rounds * k, generator=rng).to(rows.device)
    filled = torch.nn.functional.pad(rows * signs, (0, rounds * k - length))
    return filled[:, order].view(len(rows), rounds, k).sum(1)


def _relative_error(kernel: Tensor, k: int) -> float:
    """sqrt((1 + PR) / k), with |K|^2 freed from what the sketch adds to it: at most (|K|^2 + (tr K)^2) / k."""
    squared_trace = float(kernel.trace()) ** 2
    # The norm cannot be below that of a multiple of the identity.
    squared_norm = max((k * float(kernel.square().sum()) - squared_trace) / (k + 1), squared_trace / len(kernel))
    return math.sqrt((squared_norm + squared_trace) / (k * squared_norm)) if squared_norm else 0.0
