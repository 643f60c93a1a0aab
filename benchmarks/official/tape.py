"""What is recorded of ten optimizer steps, on either side, in float64; and how both sides get the same draws.

Nothing here changes what is computed. Inside `recording`, torch's default type is float64 and `.float()` makes
float64; `.cuda()` and `torch.save` do nothing; the official code draws from a generator of ours, and our code is
given what was drawn.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from components.numerics import random_numbers
from components.optimizers.parts.optimizer import Optimizer

CHANNELS, SIDE, CLASSES = 3, 32, 10
# The colours that the scripts normalise with; theirs is a network without this layer, ours has it in front.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class TinyNet(nn.Sequential):
    """Two convolutions with batch norm, a pooling and a linear layer: stands in for every network of both sides."""

    def __init__(self, *_: object, **__: object) -> None:
        layers: list[nn.Module] = []
        for inside, outside in ((CHANNELS, 8), (8, 12)):
            convolution = nn.Conv2d(inside, outside, 3, 2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outside), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, CLASSES))


class Step(NamedTuple):
    """One optimizer step: what it followed, and the network after it."""

    rate: float
    momentum: float
    loss: Tensor
    gradient: dict[str, Tensor]
    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]


class Tape:
    """The steps of one network, what was drawn for them, and the network before them.

    `balances` has what `noted` says at each of the steps, `companions` the states of a network that learns beside: that
    of `companion` after each step, or, without one, that of whichever other network an optimizer has moved.
    """

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.steps: list[Step] = []
        self.balances: list[dict[str, Tensor]] = []
        self.companions: list[dict[str, Tensor]] = []
        self.noted: Callable[[], Mapping[str, Any]] = dict
        self.companion: nn.Module | None = None
        self.draws: list[Tensor] = []
        self.networks: list[TinyNet] = []
        self.initial: list[dict[str, Tensor]] = []

    def network(self, *_: object, **__: object) -> TinyNet:
        """A new network; the first is the one whose steps are recorded."""
        drawn = len(self.draws)
        self.networks.append(TinyNet())
        del self.draws[drawn:]
        return self.networks[-1]

    def begin(self) -> None:
        """Training begins here: what all networks are now is where the other side starts."""
        for kept in (self.steps, self.balances, self.companions, self.draws):
            kept.clear()
        self.initial = [_copied(network.state_dict()) for network in self.networks]

    def fresh(self, place: int = 0) -> TinyNet:
        """A network as that one was in the beginning."""
        network = TinyNet()
        network.load_state_dict(self.initial[place])
        return network

    def drawn(self, images: Tensor) -> Tensor:
        """The next numbers for these images, [N, C, H, W]; the scripts draw some of them channel by channel."""
        if self.draws[0].ndim == images.ndim:
            return self.draws.pop(0)
        channels = [self.draws.pop(0) for _ in range(images.shape[1])]
        return torch.stack(channels, 1)


def _copied(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named.items()}


@contextmanager
def recording(tape: Tape, watched: Callable[[], TinyNet], patches: Sequence[Any]) -> Generator[None, None, None]:
    """Every step of SGD on the network `watched()` goes onto the tape, with the loss passed back before it."""
    losses: list[Tensor] = []
    backward = Tensor.backward

    def passed_back(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        losses.append(loss.detach().clone())
        backward(loss, *args, **kwargs)

    def recorded(moved: Sequence[Tensor], rate: float, momentum: float, step: Callable[[], None]) -> None:
        network = watched()
        gradient = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        step()
        if moved[0] is next(network.parameters()):
            weights, buffers = _copied(dict(network.named_parameters())), _copied(dict(network.named_buffers()))
            tape.steps.append(Step(rate, momentum, losses[-1], gradient, weights, buffers))
            tape.balances.append(_copied({n: torch.as_tensor(v) for n, v in tape.noted().items()}))
            beside = [] if tape.companion is None else [tape.companion]
        else:
            beside = [one for one in tape.networks if moved[0] is next(one.parameters())]
        tape.companions += [_copied(one.state_dict()) for one in beside]

    class RecordedSgd(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            group = self.param_groups[0]
            recorded(group["params"], group["lr"], group["momentum"], lambda: super(RecordedSgd, self).step(closure))

    own_step = Optimizer.step

    def own(optimizer: Optimizer, learning_rate: float, momentum: float) -> None:
        recorded(optimizer.parameters, learning_rate, momentum, lambda: own_step(optimizer, learning_rate, momentum))

    def as_it_is(thing: Any, *_: object, **__: object) -> Any:
        return thing

    def exact(tensor: Tensor) -> Tensor:
        return tensor if tensor.is_floating_point() else tensor.double()

    default = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(torch.float64)
        for kind, name in ((nn.Module, "float"), (Tensor, "cuda"), (nn.Module, "cuda")):
            stack.enter_context(patch.object(kind, name, as_it_is))
        stack.enter_context(patch.object(Tensor, "float", exact))
        stack.enter_context(patch.object(Tensor, "backward", passed_back))
        stack.enter_context(patch.object(torch.optim, "SGD", RecordedSgd))
        stack.enter_context(patch.object(Optimizer, "step", own))
        for one in patches:
            stack.enter_context(one)
        yield


def drawing(tape: Tape) -> list[Any]:
    """Patches under which torch's noise comes from the tape's generator, and stays on the tape as it was drawn."""

    def uniform_(tensor: Tensor, low: float = 0, high: float = 1, **_: object) -> Tensor:
        tape.draws.append(torch.rand(tensor.shape, generator=tape.generator))
        with torch.no_grad():
            return tensor.copy_(low + (high - low) * tape.draws[-1])

    randn_of = torch.randn

    def randn(*size: Any, **_: object) -> Tensor:
        tape.draws.append(randn_of(*size, generator=tape.generator))
        return tape.draws[-1].clone()

    return [patch.object(Tensor, "uniform_", uniform_), patch.object(torch, "randn", randn)]


def replaying(drawn: Callable[[Tensor], Tensor]) -> list[Any]:
    """Patches under which our code draws `drawn(images)`."""
    return [patch.object(random_numbers, "_drawn", lambda rng, images, *_: drawn(images))]


def pictures(num: int, seed: int, saturated: bool) -> tuple[Tensor, Tensor]:
    """`num` images in [0, 1] with labels; in [0.1, 0.9], or, `saturated`, with a third of their pixels at 0 or 1."""
    rng = torch.Generator().manual_seed(seed)
    uniform = torch.rand((num, CHANNELS, SIDE, SIDE), generator=rng, dtype=torch.float64)
    images = (1.5 * uniform - 0.25).clamp(0, 1) if saturated else 0.1 + 0.8 * uniform
    return images, torch.randint(CLASSES, (num,), generator=rng)


class Differences(NamedTuple):
    """The largest differences over all steps and tensors, each relative to the largest number of the official one."""

    rate: float
    momentum: float
    loss: float
    gradient: float
    weights: float
    buffers: float

    @property
    def largest(self) -> float:
        return max(self)


def differences(official: Sequence[Step], ours: Sequence[Step]) -> Differences:
    """Error: not as many steps on both sides."""
    assert len(official) == len(ours) >= 10, f"{len(official)} steps there, {len(ours)} here"
    pairs = list(zip(official, ours, strict=True))

    def largest(name: str) -> float:
        return max(_relative(getattr(theirs, name), getattr(own, name)) for theirs, own in pairs)

    return Differences(*(largest(name) for name in Differences._fields))


def differences_beside(official: Tape, ours: Tape) -> dict[str, float]:
    """Those of the balances that the official side noted, and of the network that learns beside, where there are any.

    That network is compared from the first step on that moves its weights in the official code.
    """
    sides = {"balances": (official.balances, ours.balances)} if any(official.balances) else {}
    if official.companions:
        sides["companion"] = official.companions, ours.companions[-len(official.companions) :]
    return {
        name: max(_relative(there, {key: here[key] for key in there}) for there, here in zip(*pair, strict=True))
        for name, pair in sides.items()
    }


def _relative(official: Any, ours: Any) -> float:
    if isinstance(official, dict):
        assert official.keys() == ours.keys() and official
        return max(_relative(official[name], ours[name]) for name in official)
    there, here = (torch.as_tensor(side, dtype=torch.float64) for side in (official, ours))
    size = float(there.abs().max())
    return float((there - here).abs().max()) / (size or 1.0)
