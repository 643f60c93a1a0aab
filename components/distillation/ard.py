"""ARD: distillation whose student is attacked, and must answer as the teacher does for the clean image.

Goldblum et al., "Adversarially Robust Distillation", AAAI 2020, arXiv 1905.09747.
"""

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.parts.clean_pass import CleanPasses, clean_logits
from components.distillation.parts.divergence import softened_divergence
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.taught import Taught
from components.foundation.params import Positive, Share, strict
from components.methods.parts.contract import Loss, Method, Teacher
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import logits_of
from components.numerics.losses import MeanReduction, accuracy, cross_entropy


@strict
class Ard:
    """α · T² · KL(q_T(x) ‖ p_T(x̃)) + (1 - α) · CE(f(x), y), with q the robust teacher and T the `temperature`.

    Published: `alpha` 1, `temperature` 30, an attack up the cross-entropy from `uniform`, crafted with `batch_norm`
    train, `clean_passes` always, and a divergence averaged over classes too (`reduction` class_mean), which goes with
    the published learning rate. Clean images have no weight with `alpha` 1, and are not looked at then unless
    `clean_passes` says so.
    """

    attack: InnerAttack  # How the student's images are attacked.
    alpha: Share  # Weight of the teacher against the labels.
    temperature: Positive  # Softens the predictions of teacher and student.
    reduction: MeanReduction  # Over what the divergence is averaged.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.
    clean_passes: CleanPasses = "weighted"  # When clean images are passed: where they have a weight, or always.

    def build(self, robust_teacher: nn.Module) -> Method:
        return Taught(self, robust_teacher=Teacher(robust_teacher))

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor, robust_teacher: nn.Module) -> Loss:
        """The loss of attacked images. They are passed first, then clean ones, with batch statistics of their own."""
        logits_adv = logits_of(model, images_adv)
        with torch.no_grad():
            target = logits_of(robust_teacher, batch.images)
        taught = softened_divergence(target, logits_adv, self.temperature, self.reduction)
        total = self.alpha * taught
        parts = {"loss_robust": taught.detach(), "train_adversarial_accuracy": accuracy(logits_adv, batch.labels)}
        logits = clean_logits(model, batch.images, 1 - self.alpha, self.clean_passes)
        if logits is not None:
            clean = cross_entropy(logits, batch.labels).mean()
            total = total + (1 - self.alpha) * clean
            parts |= {"loss_clean": clean.detach(), "train_accuracy": accuracy(logits, batch.labels)}
        return Loss(total, parts, attacked_logits=logits_adv)
