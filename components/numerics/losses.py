"""Losses per image, each with its reduction named: attacks increase them, methods decrease them."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from components.foundation.errors import InputError

# Keeps equal logits from dividing by zero.
TINY = 1e-12
# The class of an image on which the model gives no answer.
NO_ANSWER = -1

MeanReduction = Literal["batch_mean", "class_mean"]
Reduction = Literal[MeanReduction, "none"]


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each image, [N], from logits [N, K] and labels [N].

    With smoothing s the target is 1 - s on the label plus s/K on every class (Szegedy et al., arXiv 1512.00567,
    section 7).
    """
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def of_labels(values: Tensor, labels: Tensor) -> Tensor:
    """Of each row of `values` [N, K] the entry of its label, [N]."""
    return values.gather(1, labels[:, None]).squeeze(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit minus the right one, [N]; positive where the image is misclassified.

    The negated f₆ of Carlini & Wagner (arXiv 1608.04644, section V-A), to be maximised.
    """
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return wrong - of_labels(logits, labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio, [N]: the margin over the distance from the largest to the third largest logit.

    Unlike cross-entropy it changes neither when the logits are shifted nor when they are scaled, so a model cannot hide
    its gradient behind large logits (Croce & Hein, arXiv 2003.01690, section 4). Errors: fewer than 3 classes.
    """
    top = _largest(logits, 3, "dlr")
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + TINY)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """(z_target - z_label) / (z₁ - (z₃ + z₄) / 2), [N], where z₁ ≥ z₂ ≥ … are the sorted logits.

    The two in the denominator keep it from being constant where the target ranks third (the same section). Errors:
    fewer than 4 classes.
    """
    top = _largest(logits, 4, "targeted_dlr")
    ahead = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
    # Halves of two differences: a sum of large logits would lose what sets them apart.
    below = (top[:, 0] - top[:, 2]) / 2 + (top[:, 0] - top[:, 3]) / 2
    return ahead.squeeze(1) / (below + TINY)


def _largest(logits: Tensor, count: int, loss: str) -> Tensor:
    if logits.shape[1] < count:
        # Of the other losses only this one is there for every attack that has a choice.
        raise InputError(
            f"loss {loss}: the model has {logits.shape[1]} classes, want at least {count} (use cross_entropy instead)"
        )
    return logits.topk(count, dim=1).values


def kl_divergence(target: Tensor, logits: Tensor, reduction: Reduction) -> Tensor:
    """KL(softmax(target) ‖ softmax(logits)) in nats, from logits [N, K] on both sides, or logarithms of probabilities.

    Computed from log-softmax in double precision: a probability that underflows to 0 still has a logarithm, and the
    gradient, a small difference of large logarithms, keeps its digits.

    `batch_mean`: summed over classes, averaged over images, the mathematical divergence. `class_mean`: averaged over
    images *and* classes, so K times smaller. Much published distillation code does this (B-MTARD, RSLAD), and its
    learning rates hold for this reduction only. `none`: one value per image, [N].
    """
    log_target = F.log_softmax(target.double(), dim=1)
    per_image = (log_target.exp() * (log_target - F.log_softmax(logits.double(), dim=1))).sum(1).to(logits.dtype)
    if reduction == "none":
        return per_image
    return per_image.mean() if reduction == "batch_mean" else per_image.mean() / logits.shape[1]


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of the softmax of each row in nats, [N], from logits [N, K] or logarithms of probabilities."""
    log_probabilities = F.log_softmax(logits.double(), dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(1).to(logits.dtype)


def answers(logits: Tensor) -> Tensor:
    """The class that the model gives each image, int64 [N]: that of the largest logit.

    `NO_ANSWER`, which is never right, where a logit is NaN or infinite: to `argmax` alone NaN is the largest, so that
    every image of class 0 would be right when all logits are NaN.
    """
    return logits.argmax(1).where(logits.isfinite().all(1), NO_ANSWER)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of images classified right, a detached scalar."""
    return (answers(logits.detach()) == hard(labels)).float().mean()


def hard(labels: Tensor) -> Tensor:
    """One class for each image, int64 [N]: of probabilities [N, K] the likeliest."""
    return labels if labels.ndim == 1 else labels.argmax(1)
