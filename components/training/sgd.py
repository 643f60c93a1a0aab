"""Stochastic gradient descent with momentum: what the training loop steps with, and what a checkpoint keeps of it.

The numbers are those of `torch.optim.SGD`, bit for bit. That one imports torch's compiler when it is made, a second of
every process that trains, and hides learning rate and buffers in groups, of which training has one.
"""

# pyright: reportPrivateImportUsage=false
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Sgd:
    """Moves `parameters` along their gradients.

    With gradient g, weight decay d, momentum m and learning rate r, each step does (Sutskever et al., ICML 2013, in
    the form of torch):

        g ← g + d·p;  b ← m·b + g  (b = g at first);  p ← p − r·b, or with `nesterov` p ← p − r·(g + m·b)

    Args:
        parameters: what is moved. Those without a gradient stay.
        weight_decay: d.
        nesterov: looks ahead along the momentum.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, weight_decay: float, nesterov: bool) -> None:
        self.parameters, self.weight_decay, self.nesterov = list(parameters), weight_decay, nesterov
        self.buffers: dict[nn.Parameter, Tensor] = {}

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float, momentum: float) -> None:
        """One step; all tensors of a kind in one call, which a GPU does in few kernels."""
        moved: list[Any] = [parameter for parameter in self.parameters if parameter.grad is not None]
        if not moved:
            return
        along: Any = [parameter.grad for parameter in moved]
        if self.weight_decay:
            along = torch._foreach_add(along, moved, alpha=self.weight_decay)
        if momentum:
            buffers = self._remembered(moved, along, momentum)
            along = torch._foreach_add(along, buffers, alpha=momentum) if self.nesterov else buffers
        torch._foreach_add_(moved, along, alpha=-learning_rate)

    def _remembered(self, moved: list[Any], along: list[Tensor], momentum: float) -> list[Tensor]:
        """The buffers after this step. One that is new is the gradient itself."""
        old = [parameter for parameter in moved if parameter in self.buffers]
        if old:
            buffers = [self.buffers[parameter] for parameter in old]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, [part for p, part in zip(moved, along, strict=True) if p in self.buffers])
        for parameter, part in zip(moved, along, strict=True):
            if parameter not in self.buffers:
                self.buffers[parameter] = part.clone()
        return [self.buffers[parameter] for parameter in moved]
