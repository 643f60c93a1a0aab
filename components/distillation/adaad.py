"""AdaAD: the student is attacked where it differs most from its teacher, and learns what the teacher says there.

Huang et al., "Boosting Accuracy and Robustness of Student Models via Adaptive Adversarial Distillation", CVPR 2023.
"""

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.parts.clean_pass import CleanPasses, clean_logits
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.taught import Taught
from components.foundation.params import Share, strict
from components.methods.parts.contract import Loss, Method, Teacher
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import logits_of
from components.numerics.losses import MeanReduction, accuracy, kl_divergence


@strict
class AdaAd:
    """w · KL(q(x̃) ‖ p(x̃)) + (1 - w) · KL(q(x) ‖ p(x)) with w = `adversarial_weight`, q the robust teacher.

    No label enters. Published: weight 1, an attack up `kl_teacher` from `gaussian`, whose gradient goes through the
    teacher, `clean_passes` always, and divergences averaged over classes too on CIFAR-10 (`reduction` class_mean), over
    the batch alone on CIFAR-100. Clean images have no weight with weight 1, and are not looked at then unless
    `clean_passes` says so. An attack up `kl_teacher_held`, without the teacher's gradient, is cheaper.
    """

    attack: InnerAttack  # How the student's images are attacked.
    adversarial_weight: Share  # Weight of the attacked images against the clean ones.
    reduction: MeanReduction  # Over what both divergences are averaged.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.
    clean_passes: CleanPasses = "weighted"  # When clean images are passed: where they have a weight, or always.

    def build(self, robust_teacher: nn.Module) -> Method:
        return Taught(self, robust_teacher=Teacher(robust_teacher))

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor, robust_teacher: nn.Module) -> Loss:
        """The loss of attacked images. They are passed after the clean ones, with batch statistics of their own."""
        clean_weight = 1 - self.adversarial_weight
        logits = clean_logits(model, batch.images, clean_weight, self.clean_passes)
        logits_adv = logits_of(model, images_adv)
        with torch.no_grad():
            target_adv = logits_of(robust_teacher, images_adv)
        attacked = kl_divergence(target_adv, logits_adv, self.reduction)
        total = self.adversarial_weight * attacked
        parts = {"loss_robust": attacked.detach(), "train_adversarial_accuracy": accuracy(logits_adv, batch.labels)}
        if logits is not None:
            parts["train_accuracy"] = accuracy(logits, batch.labels)
        if logits is not None and clean_weight:
            with torch.no_grad():
                target = logits_of(robust_teacher, batch.images)
            clean = kl_divergence(target, logits, self.reduction)
            total, parts["loss_clean"] = total + clean_weight * clean, clean.detach()
        return Loss(total, parts, attacked_logits=logits_adv, attacked_target=target_adv)
