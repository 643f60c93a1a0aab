"""What methods that look at each image twice share: clean and attacked logits, their distance, what to log of them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.numerics.losses import accuracy, kl_divergence


class Views(NamedTuple):
    """Logits [N, K] of the clean and of the attacked images, with their graphs."""

    clean: Tensor
    adversarial: Tensor


def logits_of(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The model's logits [N, K], in float32 where it computes in less: losses are worth that everywhere."""
    logits = model(images)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def look_twice(model: nn.Module, batch: Batch, images_adv: Tensor) -> Views:
    """Two passes, clean images first, each with batch statistics of its own."""
    return Views(logits_of(model, batch.images), logits_of(model, images_adv))


def smoothness(views: Views) -> Tensor:
    """KL(p(x) ‖ p(x̃)) averaged over the batch, the second term of TRADES; the gradient goes through both sides."""
    return kl_divergence(views.clean, views.adversarial, "batch_mean")


def accuracies(views: Views, labels: Tensor) -> dict[str, Tensor]:
    """The shares of clean and of attacked training images classified right, to log."""
    return {
        "train_accuracy": accuracy(views.clean, labels),
        "train_adversarial_accuracy": accuracy(views.adversarial, labels),
    }
