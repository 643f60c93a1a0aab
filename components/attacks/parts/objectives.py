"""What an attack climbs: a loss, and an aim that says which class to leave or to reach."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.foundation.errors import InputError
from components.numerics.losses import cross_entropy, dlr, kl_divergence, margin, targeted_dlr
from components.numerics.random_numbers import Rng, uniform

LossName = Literal["cross_entropy", "margin", "dlr", "kl"]
Aim = Literal["true", "predicted", "least_likely", "random"]
"""Away from the `true` label; away from the class `predicted` for the clean image, so that no label leaks into the
perturbation; towards the class `least_likely` for the clean image; towards a `random` wrong class."""

LOSSES = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}


def _lower_cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    return -cross_entropy(logits, targets)


def _lower_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    return -margin(logits, targets)


TARGETED = {"cross_entropy": _lower_cross_entropy, "margin": _lower_margin, "dlr": targeted_dlr}


@dataclass(frozen=True)
class Goal:
    """An objective, logits [N, K] -> values [N], that knows what belongs to each image: labels, targets, draws."""

    loss: Callable[..., Tensor]
    given: tuple[Tensor, ...]

    def __call__(self, logits: Tensor) -> Tensor:
        return self.loss(logits, *self.given)

    def __getitem__(self, chosen: Tensor) -> "Goal":
        """The objective of some of the images (indices or a mask)."""
        return Goal(self.loss, tuple(one[chosen] for one in self.given))


def away_from(loss: LossName, labels: Tensor) -> Goal:
    """Raises the loss of `labels` [N]; not for `kl`, which knows no labels."""
    return Goal(LOSSES[loss], (labels,))


def towards(loss: LossName, labels: Tensor, targets: Tensor) -> Goal:
    """Lowers the loss of `targets` [N]; `dlr` becomes its targeted form, which lowers the logit of `labels` too."""
    return Goal(TARGETED[loss], (labels, targets))


def goal(loss: LossName, aim: Aim, labels: Tensor, clean: Callable[[], Tensor], rng: Rng) -> Goal:
    """The objective of a loss and an aim.

    Args:
        loss: `kl` climbs the divergence from the clean image's probabilities, as TRADES does, whatever the aim.
        aim: which class to leave or to reach.
        labels: the true classes, [N].
        clean: gives the clean images' logits [N, K]; called at most once, and only if the aim or the loss needs them.
        rng: what the `random` aim draws from, once for each image.
    """
    if loss == "kl":
        return Goal(_divergence, (clean().detach(),))
    if aim == "true":
        return away_from(loss, labels)
    if aim == "predicted":
        return away_from(loss, clean().argmax(1))
    if aim == "least_likely":
        return towards(loss, labels, clean().argmin(1))
    # The classes are counted when the first logits come, so that this aim costs no pass of its own.

    def drawn(logits: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
        return TARGETED[loss](logits, labels, wrong_class(draws, labels, logits.shape[1]))

    return Goal(drawn, (labels, uniform(rng, labels, ())))


def clean_logits(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """What `goal` calls for the logits of the clean images: one pass in evaluation mode, if it is called at all."""

    def clean() -> Tensor:
        with eval_mode(model), torch.no_grad():
            return model(images)

    return clean


def require_sense(loss: LossName, aim: Aim, leaves_image: bool) -> None:
    """Refuses what cannot work: `kl` with a target, and `kl` from the image itself, where its gradient is zero."""
    if loss == "kl" and aim in ("least_likely", "random"):
        raise ValueError(f"got aim {aim!r} with loss 'kl', want 'true' or 'predicted': the divergence has no target")
    if loss == "kl" and not leaves_image:
        raise ValueError("got start 'zero' with loss 'kl', want 'gaussian' or 'uniform': no gradient at the image")


def wrong_class(draws: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Uniform numbers in [0, 1) -> classes other than `labels`, each equally likely, int64 [N]."""
    if num_classes < 2:
        raise InputError(f"aim random: the model has {num_classes} class, want at least 2")
    # Rounding may lift a draw next to 1 to the number of wrong classes itself.
    drawn = (draws * (num_classes - 1)).long().clamp_max(num_classes - 2)
    return drawn + (drawn >= labels)


def _divergence(logits: Tensor, clean: Tensor) -> Tensor:
    return kl_divergence(clean, logits, "none")
