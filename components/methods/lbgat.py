"""LBGAT: the logits of a clean network, trained along, guide the robust one (Cui et al., arXiv 2011.11164)."""

import copy
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.batch import Batch
from components.foundation.params import NotNegative, strict
from components.methods.parts.afresh import start_afresh
from components.methods.parts.contract import Attacked, Loss, Method
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import accuracies, logits_of, look_twice, smoothness
from components.numerics.losses import accuracy, cross_entropy


@strict
class Lbgat:
    """MSE(f(x̃), g(x)) + CE(g(x), y) + beta · KL(p(x) ‖ p(x̃)), where g is the companion and learns from both its terms.

    The square is averaged over images and, with `reduction` class_mean as published, over classes too; with batch_mean
    it is summed over classes. The companion has the clean teacher's architecture and starts from its weights (`clean`)
    or afresh, in torch's own way (`random`). x̃ is an attack on f alone. Published: `beta` 0 or 6, an attack up the
    divergence (loss `kl`) from a gaussian start, which the published code does not clip to [0, 1], an untrained
    companion.
    """

    attack: Pgd  # How the images to train on are attacked; the companion is not.
    beta: NotNegative  # Weight of the divergence between both predictions.
    reduction: Literal["class_mean", "batch_mean"]  # Over what the squared difference is averaged.
    companion: Literal["clean", "random"]  # Starts from the clean teacher's weights, or afresh.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def build(self, clean_teacher: nn.Module) -> Method:
        """The training method; the teacher itself stays as it is, and the optimizer moves the companion as well."""
        companion = copy.deepcopy(clean_teacher).requires_grad_(True)
        if self.companion == "random":
            start_afresh(companion, "lbgat: got companion 'random', want 'clean'")
        return Attacked(self, companion=companion)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor, companion: nn.Module) -> Loss:
        """The loss of attacked images, and the companion's own."""
        views, guide = look_twice(model, batch, images_adv), logits_of(companion, batch.images)
        distance = F.mse_loss(views.adversarial, guide)
        if self.reduction == "batch_mean":
            distance = distance * guide.shape[1]
        learning, rough = cross_entropy(guide, batch.labels).mean(), smoothness(views)
        parts = {
            "loss_guidance": distance.detach(),
            "loss_companion": learning.detach(),
            "loss_smoothness": rough.detach(),
            "companion_accuracy": accuracy(guide, batch.labels),
        }
        return Loss(
            distance + learning + self.beta * rough,
            parts | accuracies(views, batch.labels),
            adversarial=cross_entropy(views.adversarial, batch.labels),
            clean=cross_entropy(views.clean, batch.labels),
        )
