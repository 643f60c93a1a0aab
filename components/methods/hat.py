"""HAT: helper examples beyond x̃, labelled by a clean network, take excess margin away.

Rade & Moosavi-Dezfooli, "Reducing Excessive Margin to Achieve a Better Accuracy vs. Robustness Trade-off", ICLR 2022.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.batch import Batch
from components.foundation.params import NotNegative, Real, strict
from components.methods.parts.contract import Attacked, Loss, Method, Teacher
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import accuracies, logits_of, look_twice, smoothness
from components.numerics.losses import accuracy, cross_entropy


@strict
class Hat:
    """CE(f(x), y) + beta · KL(p(x) ‖ p(x̃)) + gamma · CE(f(x + reach · (x̃ - x)), ŷ), ŷ the clean teacher's class at x̃.

    Each term is averaged over the batch. The helper example is the published one: it lies outside the ball, and is not
    clipped to [0, 1], so that it stays on the line through x and x̃. Published: `beta` 2.5, `gamma` 0.5, `reach` 2, an
    attack up the divergence (loss `kl`) from a gaussian start, which the published code does not clip to [0, 1].
    Errors: a `reach` of at most 1, which is not beyond x̃.
    """

    attack: Pgd  # How the images to train on are attacked.
    beta: NotNegative  # Weight of the divergence between both predictions.
    gamma: NotNegative  # Weight of the helper example's loss.
    reach: Annotated[Real, Field(gt=1)]  # How far the helper example lies along the perturbation; 1 is x̃ itself.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def build(self, clean_teacher: nn.Module) -> Method:
        return Attacked(self, clean_teacher=Teacher(clean_teacher))

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor, clean_teacher: nn.Module) -> Loss:
        """The loss of attacked images and of the helper examples behind them."""
        helpers, labels_helper = self.helpers(batch.images, images_adv, clean_teacher)
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
            clean.mean() + self.beta * rough + self.gamma * helping,
            parts | accuracies(views, batch.labels),
            adversarial=cross_entropy(views.adversarial, batch.labels),
            clean=clean,
        )

    @torch.no_grad()
    def helpers(self, images: Tensor, images_adv: Tensor, clean_teacher: nn.Module) -> tuple[Tensor, Tensor]:
        """The helper examples [N, C, H, W] and their labels [N]."""
        beyond = images + self.reach * (images_adv - images)
        return beyond, clean_teacher(images_adv).argmax(1)
