"""What the one-step methods share: the noise they start from, the step, the loss of what comes out."""

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import View
from components.data.batch import Batch
from components.foundation.params import Ratio
from components.methods.parts.contract import Loss, Method, look_at_start
from components.numerics.losses import accuracy, cross_entropy
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


class NoisyStep(Method):
    """The mean cross-entropy of images that are attacked by one step from noise around them; what step, say the fields.

    The noise is drawn uniformly from the ball of `fields.noise` times the radius and clipped to [0, 1].
    """

    keeps_graph: bool = False
    crafting_smoothing: float = 0.0

    def start(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        return threat.up_to(Ratio(self.fields.noise * threat.epsilon)).random_start(batch.images, rng)

    def loss_from(self, model: nn.Module, batch: Batch, start: Tensor, view: View, threat: Threat, rng: Rng) -> Loss:
        images_adv = self.fields.attacked(threat, start, view.gradient, batch.images)
        return starting_from(view, self.objective(model, batch, images_adv))

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        start = self.start(model, batch, threat, rng)
        return self.fields.attacked(threat, start, look_at_start(self, model, batch, start).gradient, batch.images)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        return adversarial_loss(model, batch, images_adv, self.fields.label_smoothing)[0]


def adversarial_loss(model: nn.Module, batch: Batch, images_adv: Tensor, label_smoothing: float) -> tuple[Loss, Tensor]:
    """The mean cross-entropy of attacked images, and their logits [N, K], both with their graphs."""
    logits = model(images_adv)
    adversarial = cross_entropy(logits, batch.labels, label_smoothing)
    parts = {"train_adversarial_accuracy": accuracy(logits, batch.labels)}
    return Loss(adversarial.mean(), parts, adversarial=adversarial), logits


def starting_from(view: View, loss: Loss) -> Loss:
    """`loss`, its parts led by `loss_start`, the mean cross-entropy at the start, which is known anyway."""
    return loss._replace(parts={"loss_start": view.values.detach().mean()} | loss.parts)


def attacked(threat: Threat, start: Tensor, gradient: Tensor, step_size: float, images: Tensor) -> Tensor:
    """One steepest step from `start`, brought back into the ball around `images` and into [0, 1]; asserted."""
    with torch.no_grad():
        step = threat.steepest_step(gradient, step_size, start)
        return threat.verify(threat.project(start + step, images), images)
