"""What the one-step methods share: the noise they start from, the look at that start, the loss of what comes out."""

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import View, crafting_mode, look
from components.data.batch import Batch
from components.foundation.params import Ratio
from components.methods.parts.contract import Loss, Method, OneStep
from components.models.parts.batch_norm import part_from_buffers
from components.numerics.losses import accuracy, cross_entropy, hard
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


class NoisyFields(Protocol):
    """The fields of a method whose step begins at noise of `noise` · ε."""

    @property
    def noise(self) -> Ratio: ...

    @property
    def label_smoothing(self) -> float: ...

    @property
    def batch_norm(self) -> Literal["eval", "train"]: ...

    def attacked(self, threat: Threat, start: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
        """The step from `start` along the gradient there."""
        ...


class NoisyStep(Method):
    """The mean cross-entropy of images that are attacked by one step from noise around them; what step, say the fields.

    The noise is drawn uniformly from the ball of `noise` times the radius and clipped to [0, 1].
    """

    fields: NoisyFields
    keeps_graph: bool = False

    @property
    def batch_norm(self) -> Literal["eval", "train"]:
        return self.fields.batch_norm

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        return loss_of(self, model, batch, threat, rng)

    def start(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        return threat.up_to(Ratio(self.fields.noise * threat.epsilon)).random_start(batch.images, rng)

    def loss_from(self, model: nn.Module, batch: Batch, start: Tensor, view: View, threat: Threat, rng: Rng) -> Loss:
        images_adv = self.fields.attacked(threat, start, view.gradient, batch.images)
        return starting_from(view, self.objective(model, batch, images_adv))

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        start = self.start(model, batch, threat, rng)
        view = look_at_start(model, batch, start, self.batch_norm, self.keeps_graph)
        return self.fields.attacked(threat, start, view.gradient, batch.images)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        return adversarial_loss(model, batch, images_adv, self.fields.label_smoothing)[0]


def loss_of(method: OneStep, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
    """The loss of a one-step method, from its two halves."""
    start = method.start(model, batch, threat, rng)
    view = look_at_start(model, batch, start, method.batch_norm, method.keeps_graph)
    return method.loss_from(model, batch, start, view, threat, rng)


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
