"""What the one-step methods share: the noise they start from, the look at that start, the loss of what comes out."""

from typing import Literal

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import View, crafting_mode, look
from components.data.batch import Batch
from components.foundation.params import Ratio
from components.methods.parts.contract import Loss
from components.models.parts.batch_norm import part_from_buffers
from components.numerics.losses import accuracy, cross_entropy, hard
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


def noisy_start(images: Tensor, threat: Threat, noise: Ratio, rng: Rng) -> Tensor:
    """Points drawn uniformly from the ball of `noise` times the radius around `images`, clipped to [0, 1]."""
    return threat.up_to(Ratio(noise * threat.epsilon)).random_start(images, rng)


def look_at_start(
    model: nn.Module, batch: Batch, start: Tensor, batch_norm: Literal["eval", "train"], keep_graph: bool
) -> View:
    """The pass of a one-step attack: gradient, values and logits of the cross-entropy at `start`, label unsmoothed."""
    labels = hard(batch.labels)
    with crafting_mode(model, batch_norm):
        view = look(model, start, lambda logits: cross_entropy(logits, labels), keep_graph)
    if keep_graph:
        part_from_buffers(model)
    return view


def adversarial_loss(model: nn.Module, batch: Batch, images_adv: Tensor, label_smoothing: float) -> tuple[Loss, Tensor]:
    """The mean cross-entropy of attacked images, and their logits [N, K], both with their graphs."""
    logits = model(images_adv)
    adversarial = cross_entropy(logits, batch.labels, label_smoothing)
    parts = {"train_adversarial_accuracy": accuracy(logits, batch.labels)}
    return Loss(adversarial.mean(), parts, adversarial=adversarial), logits


def starting_from(view: View, loss: Loss) -> Loss:
    """`loss`, its parts led by `loss_start`, the mean cross-entropy at the start, which is known anyway."""
    return loss._replace(parts={"loss_start": view.values.detach().mean()} | loss.parts)


def require_share(name: str, value: Ratio, most: int | None = None) -> None:
    """Refuses a field that is negative, or more than `most`."""
    if value < 0 or (most is not None and value > most):
        raise ValueError(f"got {name} {value}, want at least 0" + (f" and at most {most}" if most is not None else ""))


def attacked(threat: Threat, start: Tensor, gradient: Tensor, step_size: float, images: Tensor) -> Tensor:
    """One steepest step from `start`, brought back into the ball around `images` and into [0, 1]; asserted."""
    with torch.no_grad():
        step = threat.steepest_step(gradient, step_size, start)
        return threat.verify(threat.project(start + step, images), images)
