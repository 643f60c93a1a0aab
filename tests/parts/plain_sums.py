"""Losses as slow sums over Python floats, and slopes by central differences: what methods are tested against."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Rows = Sequence[Sequence[float]]


def plain_softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(z / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def plain_cross_entropy(logits: Sequence[float], label: int, smoothing: float = 0.0) -> float:
    total = math.log(sum(math.exp(z) for z in logits))
    target = [smoothing / len(logits) + (1 - smoothing) * (k == label) for k in range(len(logits))]
    return sum(t * (total - z) for t, z in zip(target, logits, strict=True))


def plain_kl(target: Sequence[float], logits: Sequence[float]) -> float:
    total = math.log(sum(math.exp(z) for z in logits))
    return sum(q * (math.log(q) - (z - total)) for q, z in zip(target, logits, strict=True) if q > 0)


def plain_soft_cross_entropy(target: Sequence[float], logits: Sequence[float]) -> float:
    total = math.log(sum(math.exp(z) for z in logits))
    return sum(q * (total - z) for q, z in zip(target, logits, strict=True))


def plain_rectified(target: Sequence[float], label: int, weight: float) -> list[float]:
    share = min(max(weight - (max(target) - target[label]), 0.0), 1.0)
    return [share * q + (1 - share) * (k == label) for k, q in enumerate(target)]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def slopes(value: Callable[[], float], parameter: Tensor, places: Sequence[int], step: float = 1e-6) -> list[float]:
    """The derivatives of `value` by the entries of a float64 `parameter` at these flat places."""
    found = []
    with torch.no_grad():
        flat = parameter.view(-1)
        for place in places:
            here = float(flat[place])
            flat[place] = here + step
            above = value()
            flat[place] = here - step
            found.append((above - value()) / (2 * step))
            flat[place] = here
    return found
