"""The optimizer that the training loop steps with: which parameters move how fast, and what is remembered of them.

How one step moves them is the rule, a member of the family. The numbers are those of `torch.optim`. That package
imports torch's compiler when an optimizer is made, a second of every process that trains.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Memory = dict[str, dict[nn.Parameter, Tensor]]
"""What a rule remembers of each parameter, by kind. A tensor of integers counts something and stays on the CPU."""


class Group(NamedTuple):
    """Parameters that move alike: at `rate` times the learning rate."""

    parameters: list[nn.Parameter]
    rate: float = 1.0


class Rule(Protocol):
    """A member of the family: how parameters move. Its fields are the keys of params.yaml.

    `weight_decay` is for all parameters, or with `decay_norms` false not for those of one dimension: biases, and the
    weights of normalisation. `largest_momentum` is what a schedule that moves the momentum begins and ends with.
    """

    @property
    def weight_decay(self) -> float: ...

    @property
    def decay_norms(self) -> bool: ...

    @property
    def largest_momentum(self) -> float: ...

    def move(self, moved: list[Any], memory: Memory, learning_rate: float, momentum: float, decay: float) -> None:
        """Moves parameters that have gradients, in place, all tensors of a kind in one call: few kernels on a GPU."""
        ...


class Optimizer:
    """Moves the parameters of `groups` by a rule. Those without a gradient stay, with what is remembered of them."""

    def __init__(self, rule: Rule, groups: Iterable[Group]) -> None:
        self.rule = rule
        self.memory: Memory = {}
        self.regroup(groups)

    def regroup(self, groups: Iterable[Group]) -> None:
        """Moves other parameters from now on, or the same at other rates. What is remembered stays."""
        self.groups = [group for group in groups if group.parameters]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is moved."""
        return [parameter for group in self.groups for parameter in group.parameters]

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float, momentum: float) -> None:
        """One step."""
        for group in self.groups:
            rate = learning_rate * group.rate
            for moved, decay in self._by_decay(group.parameters):
                if moved:
                    self.rule.move(moved, self.memory, rate, momentum, decay)

    def _by_decay(self, parameters: list[nn.Parameter]) -> list[tuple[list[nn.Parameter], float]]:
        """The parameters that have a gradient, with the weight decay of each part."""
        moved, decay = [parameter for parameter in parameters if parameter.grad is not None], self.rule.weight_decay
        if self.rule.decay_norms or not decay:
            return [(moved, decay)]
        return [([p for p in moved if p.ndim > 1], decay), ([p for p in moved if p.ndim <= 1], 0.0)]

    def state(self, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """What is remembered, as `KIND.NAME` -> a tensor, for parameters under these names."""
        kinds = self.memory.items()
        return {f"{kind}.{n}": known[p] for kind, known in kinds for n, p in named.items() if p in known}

    def load(self, named: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
        """Remembers what `state` returned, and nothing else."""
        self.memory = {}
        for key, tensor in state.items():
            kind, name = key.split(".", 1)
            if name in named:
                counts = not tensor.is_floating_point()
                self.memory.setdefault(kind, {})[named[name]] = tensor if counts else tensor.to(named[name])
