"""MART: misclassified images weigh more in the smoothness term (Wang et al., ICLR 2020)."""

import torch
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.batch import Batch
from components.foundation.params import NotNegative, strict
from components.methods.parts.contract import Attacked, Loss, Method, one_class
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import accuracies, look_twice
from components.numerics.losses import cross_entropy, kl_divergence

# What is left where a wrong class is certain, as published: it costs 9.2, not infinitely much.
CERTAIN = 1e-4


@strict
class Mart:
    """BCE(f(x̃), y) + beta · mean[KL(p(x) ‖ p(x̃)) · (1 - p_y(x))], with BCE = CE - log(1.0001 - max p_j(x̃) over j ≠ y).

    The gradient goes through every factor. Published: `beta` 5 and an attack up the cross-entropy from a gaussian
    start, which the published code does not clip to [0, 1] before the first gradient. Errors: labels that are mixed.
    """

    attack: Pgd  # How the images to train on are attacked.
    beta: NotNegative  # Weight of the divergence between both predictions.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def build(self) -> Method:
        return Attacked(self)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        """The loss of attacked images."""
        views, labels = look_twice(model, batch, images_adv), one_class(batch.labels, "mart")
        adversarial = cross_entropy(views.adversarial, batch.labels)
        wrong = views.adversarial.scatter(1, labels[:, None], -torch.inf).argmax(1)
        boosted = (adversarial - (CERTAIN + _without(views.adversarial, wrong)).log()).mean()
        # In double precision: a large divergence times a weight of nearly 0 has a gradient in which little may be lost.
        clean, attacked = views.clean.double(), views.adversarial.double()
        weights = _without(clean, labels)
        weighted = (kl_divergence(clean, attacked, "none") * weights).mean().to(boosted.dtype)
        parts = {"loss_adversarial": boosted.detach(), "loss_smoothness": weighted.detach()}
        return Loss(
            boosted + self.beta * weighted,
            parts | accuracies(views, batch.labels),
            adversarial=adversarial,
            clean=cross_entropy(views.clean, batch.labels),
        )


def _without(logits: Tensor, classes: Tensor) -> Tensor:
    """1 - p of one class of each image, [N]: as the sum of the others, which keeps its digits where p is nearly 1."""
    return logits.softmax(1).scatter(1, classes[:, None], 0).sum(1)
