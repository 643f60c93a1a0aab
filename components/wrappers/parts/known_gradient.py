"""A value whose gradient was found beforehand, to be added to a loss as if autograd had seen how it came about."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def with_gradient(value: Tensor, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """`value`, a scalar, with these gradients by `parameters` (None: zero); they are constants of a second gradient."""
    return _Given.apply(value.detach(), gradients, *parameters)


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *scales: Tensor) -> Any:
        return None, None, *(None if gradient is None else scales[0] * gradient for gradient in ctx.gradients)
