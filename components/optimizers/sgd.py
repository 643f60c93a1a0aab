"""Stochastic gradient descent with momentum."""

# pyright: reportPrivateImportUsage=false
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from components.foundation.params import NotNegative, Real, strict
from components.optimizers.parts.optimizer import Memory


@strict
class Sgd:
    """Stochastic gradient descent with momentum; the numbers of `torch.optim.SGD`, bit for bit.

    With gradient g, weight decay d, momentum m and learning rate r, each step does (Sutskever et al., ICML 2013, in
    the form of torch):

        g ← g + d·p;  b ← m·b + g  (b = g at first);  p ← p − r·b, or with `nesterov` p ← p − r·(g + m·b)
    """

    momentum: Annotated[Real, Field(ge=0, lt=1)]  # Momentum m; more than 0 with `nesterov`.
    nesterov: bool  # Whether a step looks ahead along the momentum.
    weight_decay: NotNegative  # Weight decay d.
    decay_norms: bool  # Whether biases and the weights of normalisation decay too; false: only what is no vector.

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ValueError("got momentum 0.0 with nesterov, want more than 0")

    @property
    def largest_momentum(self) -> float:
        """m."""
        return self.momentum

    def move(self, moved: list[Any], memory: Memory, learning_rate: float, momentum: float, decay: float) -> None:
        """One step of these parameters along their gradients."""
        along: Any = [parameter.grad for parameter in moved]
        if decay:
            along = torch._foreach_add(along, moved, alpha=decay)
        if momentum:
            buffers = _remembered(memory.setdefault("momentum", {}), moved, along, momentum)
            along = torch._foreach_add(along, buffers, alpha=momentum) if self.nesterov else buffers
        torch._foreach_add_(moved, along, alpha=-learning_rate)


def _remembered(known: dict[nn.Parameter, Tensor], moved: list[Any], along: Any, momentum: float) -> Any:
    """The buffers after this step. One that is new is the gradient itself."""
    old = [parameter for parameter in moved if parameter in known]
    if old:
        buffers = [known[parameter] for parameter in old]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, [part for p, part in zip(moved, along, strict=True) if p in known])
    for parameter, part in zip(moved, along, strict=True):
        if parameter not in known:
            known[parameter] = part.clone()
    return [known[parameter] for parameter in moved]
