"""RSLAD: robust soft labels, those of the robust teacher for the clean image, in place of all labels.

Zi et al., "Revisiting Adversarial Robustness Distillation: Robust Soft Labels Make Student Better", ICCV 2021.
"""

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.taught import Taught
from components.foundation.params import Share, strict
from components.methods.parts.contract import Loss, Method, Teacher
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import Views, accuracies, logits_of
from components.numerics.losses import MeanReduction, kl_divergence


@strict
class Rslad:
    """w · KL(q(x) ‖ p(x̃)) + (1 - w) · KL(q(x) ‖ p(x)) with w = `adversarial_weight`, q the robust teacher.

    No label enters. Published: weight 5/6, an attack up `kl_teacher_clean` from `gaussian`, and divergences averaged
    over classes too (`reduction` class_mean), on CIFAR-100 times 10, which equals a tenfold learning rate with a tenth
    of the weight decay. In each step the teacher is asked for x twice, by such an attack and by the loss.
    """

    attack: InnerAttack  # How the student's images are attacked.
    adversarial_weight: Share  # Weight of the attacked images against the clean ones.
    reduction: MeanReduction  # Over what both divergences are averaged.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def build(self, robust_teacher: nn.Module) -> Method:
        return Taught(self, robust_teacher=Teacher(robust_teacher))

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor, robust_teacher: nn.Module) -> Loss:
        """The loss of attacked images. Two passes, attacked images first, each with batch statistics of its own."""
        views = Views(adversarial=logits_of(model, images_adv), clean=logits_of(model, batch.images))
        with torch.no_grad():
            target = logits_of(robust_teacher, batch.images)
        attacked = kl_divergence(target, views.adversarial, self.reduction)
        clean = kl_divergence(target, views.clean, self.reduction)
        total = self.adversarial_weight * attacked + (1 - self.adversarial_weight) * clean
        parts = {"loss_robust": attacked.detach(), "loss_clean": clean.detach()}
        return Loss(total, parts | accuracies(views, batch.labels), attacked_logits=views.adversarial)
