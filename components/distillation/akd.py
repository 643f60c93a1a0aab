"""AKD: adversarial training on a mixture of the labels and what a robust teacher says of the attacked images.

Maroto et al., "On the benefits of knowledge distillation for adversarial robustness", arXiv 2203.07159.
"""

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.taught import Taught
from components.foundation.params import Share, strict
from components.methods.parts.contract import Loss, Method, Teacher
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import logits_of
from components.numerics.losses import accuracy, cross_entropy, kl_divergence


@strict
class Akd:
    """(1 - w) · CE(f(x̃), y) + w · KL(q(x̃) ‖ p(x̃)) with w = `teacher_weight`, q the robust teacher, batch means.

    Its gradient is that of the cross-entropy to the mixture (1 - w) · y + w · q(x̃). No official code is public to us:
    that is how we read the abstract ("adversarially training a student on a mixture of the original labels and the
    teacher outputs"), where nothing is said of a temperature or of the weight. Its twin with a clean teacher too is
    `kd_swa`. The usual attack is up the cross-entropy from `uniform`.
    """

    attack: InnerAttack  # How the student's images are attacked.
    teacher_weight: Share  # Weight of the teacher's prediction against the label.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def build(self, robust_teacher: nn.Module) -> Method:
        return Taught(self, robust_teacher=Teacher(robust_teacher))

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor, robust_teacher: nn.Module) -> Loss:
        """The loss of attacked images; clean ones are not looked at."""
        logits = logits_of(model, images_adv)
        with torch.no_grad():
            target = logits_of(robust_teacher, images_adv)
        adversarial = cross_entropy(logits, batch.labels)
        taught = kl_divergence(target, logits, "batch_mean")
        parts = {
            "loss_adversarial": adversarial.detach().mean(),
            "loss_robust": taught.detach(),
            "train_adversarial_accuracy": accuracy(logits, batch.labels),
        }
        total = (1 - self.teacher_weight) * adversarial.mean() + self.teacher_weight * taught
        return Loss(total, parts, adversarial=adversarial, attacked_logits=logits, attacked_target=target)
