"""ARD: distillation whose student is attacked, and must answer as the teacher does for the clean image.

Goldblum et al., "Adversarially Robust Distillation", AAAI 2020, arXiv 1905.09747.
"""

import torch
from torch import Tensor, nn

from components.data.batch import Batch
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
    train, and a divergence averaged over classes too (`reduction` class_mean), which goes with the published learning
    rate. With `alpha` 1 the clean images have no weight and are not looked at. The published code passes them all the
    same, which only moves batch norm's statistics.
    """

    attack: InnerAttack  # How the student's images are attacked.
    alpha: Share  # Weight of the teacher against the labels.
    temperature: Positive  # Softens the predictions of teacher and student.
    reduction: MeanReduction  # Over what the divergence is averaged.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def build(self, robust_teacher: nn.Module) -> Method:
        return Taught(self, robust_teacher=Teacher(robust_teacher))

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor, robust_teacher: nn.Module) -> Loss:
        """The loss of attacked images. They are passed first, then clean ones, with batch statistics of their own."""
        logits_adv = logits_of(model, images_adv)
        with torch.no_grad():
            target = logits_of(robust_teacher, batch.images)
        taught = softened_divergence(target, logits_adv, self.temperature, self.reduction)
        total, clean = self.alpha * taught, None
        parts = {"loss_robust": taught.detach(), "train_adversarial_accuracy": accuracy(logits_adv, batch.labels)}
        if self.alpha < 1:
            logits = logits_of(model, batch.images)
            clean = cross_entropy(logits, batch.labels)
            total = total + (1 - self.alpha) * clean.mean()
            parts |= {"loss_clean": clean.detach().mean(), "train_accuracy": accuracy(logits, batch.labels)}
        return Loss(total, parts, clean=clean, attacked_logits=logits_adv)
