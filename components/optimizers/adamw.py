"""Adam with weight decay apart from the gradient, as transformers and ConvNeXt are trained."""

# pyright: reportPrivateImportUsage=false
from typing import Annotated, Any

import torch
from pydantic import Field

from components.foundation.params import NotNegative, Positive, Real, strict
from components.optimizers.parts.optimizer import Memory

Beta = Annotated[Real, Field(ge=0, lt=1)]


@strict
class AdamW:
    """Adam with decoupled weight decay; the numbers of `torch.optim.AdamW`.

    With gradient g, weight decay d and learning rate r, step t of a parameter does (Loshchilov & Hutter,
    arXiv 1711.05101, algorithm 2, in the form of torch):

        p ← p − r·d·p;  m ← β₁·m + (1 − β₁)·g;  v ← β₂·v + (1 − β₂)·g²
        p ← p − r / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + `eps`)

    t counts the steps in which the parameter had a gradient. A schedule that moves the momentum moves β₁.
    """

    betas: tuple[Beta, Beta]  # Shares that one step keeps of the mean gradient, β₁, and of its mean square, β₂.
    eps: Positive  # Keeps the quotient finite where the gradient has always been 0.
    weight_decay: NotNegative  # Weight decay d.
    decay_norms: bool  # Whether biases and the weights of normalisation decay too; false: only what is no vector.

    @property
    def largest_momentum(self) -> float:
        """β₁."""
        return self.betas[0]

    def move(self, moved: list[Any], memory: Memory, learning_rate: float, momentum: float, decay: float) -> None:
        """One step of these parameters along their gradients."""
        first, second = momentum, self.betas[1]
        gradients: Any = [parameter.grad for parameter in moved]
        means, squares, counts = (memory.setdefault(kind, {}) for kind in ("mean", "square", "count"))
        for parameter in moved:
            if parameter not in means:
                means[parameter], squares[parameter] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                counts[parameter] = torch.zeros((), dtype=torch.int64)
            counts[parameter] += 1
        steps = [int(counts[parameter]) for parameter in moved]
        mean, square = [means[parameter] for parameter in moved], [squares[parameter] for parameter in moved]
        if decay:
            torch._foreach_mul_(moved, 1 - learning_rate * decay)
        torch._foreach_lerp_(mean, gradients, 1 - first)
        torch._foreach_mul_(square, second)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - second)
        sizes: Any = torch._foreach_sqrt(square)
        torch._foreach_div_(sizes, [(1 - second**step) ** 0.5 for step in steps])
        torch._foreach_add_(sizes, self.eps)
        torch._foreach_addcdiv_(moved, mean, sizes, [-learning_rate / (1 - first**step) for step in steps])
