"""The balances between two teachers (Zhao et al., arXiv 2306.16170), as updates of small tensors on the device.

As published, the temperatures move a step at a time and the weights follow the losses. Each rule has others beside it.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from components.numerics import parallel
from components.numerics.losses import entropy

TemperatureRule = Literal["step", "solve"]
"""`step`, as published: the surer teacher is heated by one step, the other cooled; used from the next step on. `solve`:
in each step the surer teacher is heated until its entropy is the other's, at once and without a step size."""

WeightRule = Literal["loss", "validation", "fixed"]
"""`loss`, as published: the side whose loss fell less since the start gets more, in each step. `validation`: the side
that is further below its teacher on the validation split gets more, from epoch to epoch. `fixed`: weights stay."""

# Of the range of temperatures 2^-30 is left then, less than float32 tells apart.
HALVINGS = 30


class Pair(NamedTuple):
    """A tensor for the robust teacher's side and one for the clean teacher's."""

    robust: Tensor
    clean: Tensor


class Ceilings(NamedTuple):
    """What the teachers reach on the validation split: the robust one under the validation attack, the clean one
    without."""

    robust: float
    clean: float


def over_batch(values: Pair, count: int) -> Pair:
    """Means over the whole batch from means over this process's `count` images: all processes keep one balance."""
    return Pair(*(parallel.mean(value, count) for value in values))


def balance_entropy(temperatures: Pair, entropies: Pair, step_size: float, low: float, high: float) -> Pair:
    """The next temperatures: the teacher with less entropy is heated by one step, the other cooled, inside [low, high].

    τ ← clip(τ − η · sign(H / H_other − 1)). (`Entropy-Based Balance`; entropies are those at the current temperatures.)
    """
    robust, clean = entropies
    # sign(a / b - 1) = sign(a - b) for positive entropies, and is defined where one of them is zero.
    return Pair(
        (temperatures.robust - step_size * torch.sign(robust - clean)).clamp(low, high),
        (temperatures.clean - step_size * torch.sign(clean - robust)).clamp(low, high),
    )


@torch.no_grad()
def matching_temperatures(logits: Pair, low: float, high: float) -> Pair:
    """The temperatures in [low, high] at which both mean entropies over the batch are equal, float64, by bisection.

    The teacher with less entropy at `low` is heated until it has the other's entropy there, or to `high` where that is
    not enough; the other stays at `low`. (The mean entropy of softmax(z / τ) grows with τ.) Always as many steps, so
    that nothing waits for the device. Processes that train together exchange two numbers in each.
    """
    wide = torch.stack(logits).double()
    count = wide.shape[1]

    def heat(temperatures: Tensor) -> Tensor:
        softened = wide / temperatures[:, None, None]
        return parallel.mean(entropy(softened.flatten(0, 1)).view(2, count).mean(1), count)

    below, above = (wide.new_full((2,), bound) for bound in (low, high))
    lowest, highest = below, above
    own = heat(lowest)
    wanted = own.max()
    enough = heat(highest) >= wanted
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        colder = heat(middle) < wanted
        below, above = torch.where(colder, middle, below), torch.where(colder, above, middle)
    return Pair(*torch.where(own < wanted, torch.where(enough, below, highest), lowest))


def balance_loss(weights: Pair, relative_losses: Pair, step_size: float, exponent: float = 1.0) -> Pair:
    """The next weights, which move towards each side's share of the relative loss: the slower learner gets more.

    w ← w − η (w − l̂^β / (l̂^β + l̂_other^β)) with l̂ = L / L at the start and β the `exponent`, 1 in B-MTARD.
    (`Normalization Loss Balance`; the published code divides by the mean first, which cancels.) The sum of the weights
    is kept, so they stay a convex combination. Where nothing is left to learn, both losses 0, they stay as they are.
    """
    powers = relative_losses if exponent == 1 else Pair(*(loss**exponent for loss in relative_losses))
    total = powers.robust + powers.clean
    shares = [torch.where(total > 0, power / total, w) for w, power in zip(weights, powers, strict=True)]
    return Pair(*(w - step_size * (w - share) for w, share in zip(weights, shares, strict=True)))


def share_below(reached: Ceilings, ceilings: Ceilings) -> float | None:
    """The robust side's share of what is missing; None where nothing is.

    A side misses 1 - accuracy / ceiling, its own accuracy beside its teacher's, and nothing where it is above.
    """
    missing = [max(0.0, 1 - own / top) if top else 0.0 for own, top in zip(reached, ceilings, strict=True)]
    return missing[0] / sum(missing) if sum(missing) else None


def both(make: Callable[[Tensor, Tensor], Tensor], one: Pair, other: Pair) -> Pair:
    """`make` of each side of both pairs."""
    return Pair(make(one.robust, other.robust), make(one.clean, other.clean))
