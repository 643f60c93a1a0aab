"""FGSM-MEP: each image's attack starts where its momentum led in earlier epochs."""

from typing import Literal

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import View
from components.data.batch import Batch
from components.foundation.params import Epochs, NotNegativeLength, Real, Share, strict
from components.methods.parts import one_step
from components.methods.parts.contract import Loss, Method
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.image_memory import ImageMemory
from components.numerics import parallel
from components.numerics.losses import TINY
from components.numerics.random_numbers import Rng
from components.threats.parts.norm import Cornered, require
from components.threats.parts.threat import Threat


@strict
class FgsmMep:
    """CE(f(x̃), y) + weight · ‖f(x̃) - f(x⁰)‖², the square averaged over images and classes (Jia et al., "Prior-Guided
    FGSM", arXiv 2207.08859, section 3, with the momentum of all previous epochs).

    With δ and m the image's own, g the gradient at x⁰ = Π(x + δ) over its L1 norm in the whole batch: x̃ = Π(x⁰ + α
    sign g), then m ← g + momentum · m and δ ← Π(x⁰ + α sign m) - x, where α is `step_size`. Every `reset_every` epochs
    m is zero and δ is ±ε at random. `craft` says whether g climbs the cross-entropy of the smoothed target, as the
    published code does, or that of the label alone. `align` has both follow the image's crops and flips; the published
    code leaves them in the crop's coordinates, and does not clip x + δ to [0, 1]. The gradient goes through both
    logits.

    Published: `momentum` 0.3, `step_size` ε, `weight` 10, `reset_every` 40 (10 for CIFAR-100), `batch_norm` train,
    `craft` smoothed, and 0.6 as the target of the true class of K, which is `label_smoothing` 0.4 · K / (K - 1): 4/9
    for ten classes. Errors: another norm than L∞.
    """

    step_size: NotNegativeLength  # Length α of the step, a fraction of the pixel range.
    momentum: Real  # What m is multiplied by at each update.
    reset_every: Epochs  # Epochs after which m and δ start anew.
    weight: Real  # Weight of the squared difference of the logits.
    label_smoothing: Share  # Share of the target that goes evenly to all classes.
    align: bool  # Whether m and δ follow the image's crops and flips.
    batch_norm: BatchNormMode  # Which mode batch norm is in while images are crafted.
    craft: Literal["smoothed", "hard"]  # Whether the attack climbs the loss of the smoothed target or of the label.

    def build(self) -> "FgsmMepMethod":
        return FgsmMepMethod(self)


class FgsmMepMethod(Method):
    """The objective of `FgsmMep`, and its memory of every image seen."""

    fields: FgsmMep
    keeps_graph: bool = True
    divisible = False

    def __init__(self, fields: FgsmMep) -> None:
        super().__init__(fields)
        self.memory = ImageMemory("delta", "momentum")

    @property
    def crafting_smoothing(self) -> float:
        """The smoothing of the target that the attack leaves."""
        return self.fields.label_smoothing if self.fields.craft == "smoothed" else 0.0

    @property
    def host_decides(self) -> str:
        """The size of the memory, until every image has been seen."""
        return "" if self.memory.complete else "fgsm_mep makes room for images that it has not seen yet"

    def begin_epoch(self, epoch: int) -> None:
        """Forgets everything in epochs 0, `reset_every`, …"""
        if epoch % self.fields.reset_every == 0:
            self.memory.forget()
        self.memory.take_stock()

    def end_epoch(self, model: nn.Module) -> None:
        """Has every process know what the others saw."""
        self.memory.share()

    def start(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        self._welcome(batch, threat, rng)
        return threat.project(batch.images + self._recalled("delta", batch), batch.images)

    def loss_from(self, model: nn.Module, batch: Batch, start: Tensor, view: View, threat: Threat, rng: Rng) -> Loss:
        images_adv = one_step.attacked(threat, start, view.gradient, float(self.fields.step_size), batch.images)
        self._remember(batch, start, view.gradient, threat)
        loss, logits = one_step.adversarial_loss(model, batch, images_adv, self.fields.label_smoothing)
        exact = torch.promote_types(logits.dtype, torch.float32)
        drift = (logits.to(exact) - view.logits.to(exact)).square().mean()
        parts = loss.parts | {"loss_drift": drift.detach()}
        return one_step.starting_from(view, loss._replace(total=loss.total + self.fields.weight * drift, parts=parts))

    def _welcome(self, batch: Batch, threat: Threat, rng: Rng) -> None:
        """Gives the images that are new a perturbation of ±ε; draws nothing once there can be none."""
        norm = require(threat.norm, Cornered, "method: fgsm_mep", "linf (its perturbations are signs)")
        self.memory.make_room(batch.indices, batch.images, batch.num_images)
        if not self.memory.complete:
            new = self.memory.new(batch.indices).view(-1, 1, 1, 1)
            noise = norm.random_corner(batch.images, threat.radius, rng)
            delta = torch.where(new, noise, self.memory.recall("delta", batch.indices))
            self.memory.remember(batch.indices, delta=delta)

    @torch.no_grad()
    def _remember(self, batch: Batch, start: Tensor, gradient: Tensor, threat: Threat) -> None:
        size = parallel.sum_(gradient.abs().sum()).clamp_min(TINY)
        momentum = gradient / size + self.fields.momentum * self._recalled("momentum", batch)
        step = threat.steepest_step(momentum, float(self.fields.step_size), start)
        ahead = threat.project(start + step, batch.images)
        moved = {"delta": ahead - batch.images, "momentum": momentum}
        if self.fields.align:
            moved = {
                name: batch.placement.back(values, self.memory.recall(name, batch.indices))
                for name, values in moved.items()
            }
        self.memory.remember(batch.indices, **moved)

    def _recalled(self, name: str, batch: Batch) -> Tensor:
        """As the batch's images lie: moved like them, or in the coordinates of the crop."""
        values = self.memory.recall(name, batch.indices)
        return batch.placement.moved(values) if self.fields.align else values
