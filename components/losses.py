"""Losses per image, each with its reduction said aloud: what attacks climb and methods descend."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["batch_mean", "class_mean", "none"]


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each image, [N], from logits [N, K] and labels [N].

    With smoothing s the target is 1 - s on the label plus s/K on every class (Szegedy et al., arXiv 1512.00567,
    section 7).
    """
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit minus the right one, [N]; positive where the image is misclassified.

    The negated f₆ of Carlini & Wagner (arXiv 1608.04644, section V-A), to be maximised.
    """
    right = logits.gather(1, labels[:, None]).squeeze(1)
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return wrong - right


def kl_divergence(target: Tensor, logits: Tensor, reduction: Reduction) -> Tensor:
    """KL(target ‖ softmax(logits)) in nats, with `target` probabilities [N, K] and `logits` [N, K].

    `batch_mean`: summed over classes, averaged over images, the mathematical divergence. `class_mean`: averaged over
    images *and* classes, K times smaller: what much published distillation code does (facts on B-MTARD and RSLAD), so
    its learning rates belong to it. `none`: one value per image, [N].
    """
    per_image = (torch.xlogy(target, target) - target * F.log_softmax(logits, dim=1)).sum(1)
    if reduction == "none":
        return per_image
    return per_image.mean() if reduction == "batch_mean" else per_image.mean() / logits.shape[1]


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy of each row in nats, [N], from probabilities [N, K]."""
    return -torch.xlogy(probabilities, probabilities).sum(1)
