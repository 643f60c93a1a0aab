"""The two balances of B-MTARD (Zhao et al., arXiv 2306.16170), as updates of small tensors that stay on the device."""

from typing import NamedTuple

import torch
from torch import Tensor


class Pair(NamedTuple):
    """A scalar tensor for the robust teacher's side and one for the clean teacher's."""

    robust: Tensor
    clean: Tensor


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


def balance_loss(weights: Pair, relative_losses: Pair, step_size: float) -> Pair:
    """The next weights, which move towards each side's share of the relative loss: the slower learner gets more.

    w ← w − η (w − l̂ / (l̂ + l̂_other)) with l̂ = L / L at the first step. (`Normalization Loss Balance`; the
    published code divides by the mean first, which cancels.) The sum of the weights is kept, so they stay a convex
    combination. Where nothing is left to learn, both losses 0, they stay as they are.
    """
    total = relative_losses.robust + relative_losses.clean
    shares = [torch.where(total > 0, loss / total, w) for w, loss in zip(weights, relative_losses, strict=True)]
    return Pair(*(w - step_size * (w - share) for w, share in zip(weights, shares, strict=True)))
