"""HAT: helper examples beyond x̃, labelled by a clean network, take excess margin away.

Rade & Moosavi-Dezfooli, "Reducing Excessive Margin to Achieve a Better Accuracy vs. Robustness Trade-off", ICLR 2022.
"""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.batch import Batch
from components.foundation.params import STRICT, Real, Weight
from components.methods.parts.contract import Loss, Method, Teacher, attacked
from components.methods.parts.two_views import accuracies, logits_of, look_twice, smoothness
from components.numerics.losses import accuracy, cross_entropy


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Hat:
    """CE(f(x), y) + beta · KL(p(x) ‖ p(x̃)) + gamma · CE(f(x + reach · (x̃ - x)), ŷ), ŷ the clean teacher's class at x̃.

    Each term is averaged over the batch. The helper example is the published one: it lies outside the ball, and is not
    clipped to [0, 1], so that it stays on the line through x and x̃. Published: `beta` 2.5, `gamma` 0.5, `reach` 2, an
    attack up the divergence (loss `kl`) from a gaussian start. Errors: a `reach` of at most 1, which is not beyond x̃.
    """

    attack: Pgd
    beta: Weight
    gamma: Weight
    reach: Real

    def __post_init__(self) -> None:
        if self.reach <= 1:
            raise ValueError(f"got reach {self.reach}, want more than 1: helper examples lie beyond the attacked ones")

    def build(self, clean_teacher: nn.Module) -> "HatMethod":
        return HatMethod(self, clean_teacher)


class HatMethod(Method):
    """The objective of `Hat`."""

    fields: Hat
    craft = attacked

    def __init__(self, fields: Hat, clean_teacher: nn.Module) -> None:
        super().__init__(fields)
        self.clean_teacher = Teacher(clean_teacher)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        helpers, labels_helper = self.helpers(batch.images, images_adv)
        views = look_twice(model, batch, images_adv)
        logits_helper = logits_of(model, helpers)
        clean, rough = cross_entropy(views.clean, batch.labels), smoothness(views)
        helping = cross_entropy(logits_helper, labels_helper).mean()
        parts = {
            "loss_clean": clean.detach().mean(),
            "loss_smoothness": rough.detach(),
            "loss_helper": helping.detach(),
            "helper_accuracy": accuracy(logits_helper, labels_helper),
        }
        return Loss(
            clean.mean() + self.fields.beta * rough + self.fields.gamma * helping,
            parts | accuracies(views, batch.labels),
            adversarial=cross_entropy(views.adversarial, batch.labels),
            clean=clean,
        )

    @torch.no_grad()
    def helpers(self, images: Tensor, images_adv: Tensor) -> tuple[Tensor, Tensor]:
        """The helper examples [N, C, H, W] and their labels [N]."""
        beyond = images + self.fields.reach * (images_adv - images)
        return beyond, self.clean_teacher(images_adv).argmax(1)
