"""A network that a method moves by itself, since the optimizer of the loop moves the student at another rate."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from components.methods.parts.two_views import logits_of
from components.numerics import parallel


class OwnDescent(nn.Module):
    """What plain gradient descent remembers of a network's parameters: g ← g + d·p;  b ← m·b + g;  p ← p − r·b.

    These are the steps of `torch.optim.SGD` with weight decay d, momentum m and learning rate r. The b are buffers, so
    that they are in checkpoints as the rest of a method's memory is. The network's parameters require no gradient, by
    which the loop's optimizer knows that they are not its own.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, parameter in network.named_parameters():
            self.register_buffer(_undotted(name), torch.zeros_like(parameter))

    def logits_and_step(
        self, network: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Callable[[float, float, float], None]]:
        """The network's logits [N, K] without a graph, and the step down `loss` of them, still to be made.

        `loss` is this process's share of the whole batch's loss. The step is given r, m and d.
        """
        named = dict(network.named_parameters())
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in named.items()}
        with torch.enable_grad():
            logits = logits_of(lambda pixels: functional_call(network, leaves, (pixels,)), images)
            gradients = torch.autograd.grad(loss(logits), list(leaves.values()), materialize_grads=True)

        @torch.no_grad()
        def step(learning_rate: float, momentum: float, weight_decay: float) -> None:
            for (name, parameter), own in zip(named.items(), gradients, strict=True):
                buffer = self.get_buffer(_undotted(name))
                buffer.mul_(momentum).add_(parallel.sum_(own).add(parameter, alpha=weight_decay))
                parameter.sub_(buffer, alpha=learning_rate)

        return logits.detach(), step


# A buffer's name must hold no dot.
def _undotted(name: str) -> str:
    return name.replace(".", "/")
