"""Probabilities to learn from in place of labels: softened by a temperature, rectified, or stripped of their advice."""

import torch
from torch import Tensor

from components.numerics.losses import of_labels


def softened(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature), [N, K]; in double precision, since a quotient of large logits has few decimals."""
    return (logits.double() / temperature).softmax(1).to(logits.dtype)


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """Labels [N] as certain probabilities, of the shape [N, K] and the type of `like`."""
    return torch.zeros_like(like).scatter(1, labels[:, None], 1)


def rectified(target: Tensor, labels: Tensor, weight: float) -> Tensor:
    """λ · target + (1 - λ) · onehot with λ = clip(weight - (max q - q_y), 0, 1) for each image, [N, K].

    The more a target [N, K] prefers a wrong class, the less of it is left: with a `weight` of at most 1 no class ends
    above the true one. (Wu et al., "Annealing Self-Distillation Rectification
    Improves Adversarial Training", arXiv 2305.12118.)
    """
    lead = target.amax(1) - of_labels(target, labels)
    share = (weight - lead).clamp(0, 1)[:, None]
    return share * target + (1 - share) * one_hot(labels, target)


def without_advice(target: Tensor, labels: Tensor) -> Tensor:
    """The target's probability of the true class, and what is left spread evenly over the wrong ones, [N, K].

    It says how sure to be of an image, and nothing on which other classes it resembles.
    """
    sure = target.gather(1, labels[:, None])
    # The sum of the others, not 1 - sure, which has no digits left where sure is nearly 1.
    rest = target.scatter(1, labels[:, None], 0).sum(1, keepdim=True)
    even = (rest / (target.shape[1] - 1)).expand_as(target)
    return torch.scatter(even, 1, labels[:, None], sure)
