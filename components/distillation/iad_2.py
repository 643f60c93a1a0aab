"""IAD-II: KD of a clean and a robust teacher whose student also asks itself where the robust one knows little.

Zhu et al., "Reliable Adversarial Distillation with Unreliable Teachers", ICLR 2022, arXiv 2106.04928.
"""

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.parts.divergence import softened_divergence
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.introspection import introspection, trust
from components.distillation.parts.shares import require_shares
from components.distillation.parts.taught import TaughtByEpoch
from components.foundation.params import NotNegative, Positive, Whole, strict
from components.methods.parts.contract import Loss, Method, Teacher, one_class
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import Views, logits_of
from components.numerics.losses import accuracy, cross_entropy


@strict
class Iad2:
    """(1 - w_r - w_c) · CE(f(x̃), y) + w_r · T² · mean[a · KL(q_T(x̃) ‖ p_T(x̃)) + (1 - a) · KL(p(x) ‖ p(x̃))]
    + w_c · T² · KL(c_T(x̃) ‖ p_T(x̃)) with a = q_y(x̃)^`exponent`, q the robust teacher and c the clean one.

    w_r is `robust_weight`, w_c `clean_weight`, T the `temperature`; p(x), the student's own answer, is not held
    constant. Before `begin_epoch` a is 1, so that clean images are not looked at. Published: weights 0.5 and 0.25,
    `temperature` 1, `exponent` 0.1, `begin_epoch` 40 of 200, an attack up the cross-entropy from `uniform`, crafted
    with `batch_norm` train. Errors: weights above 1 in sum, mixed labels.
    """

    attack: InnerAttack  # How the student's images are attacked.
    clean_weight: NotNegative  # Weight of the clean teacher; both weights are at most 1 in sum.
    robust_weight: NotNegative  # Weight of the robust teacher, and of the student's own answer.
    temperature: Positive  # Softens the predictions of teachers and student in the teachers' terms.
    exponent: NotNegative  # How fast trust falls with the robust teacher's probability of the label; 0: full trust.
    begin_epoch: Whole  # The first epoch in which the student asks itself, counted from 0.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def __post_init__(self) -> None:
        require_shares(self.clean_weight, self.robust_weight)

    def build(self, clean_teacher: nn.Module, robust_teacher: nn.Module) -> Method:
        return TaughtByEpoch(self, clean_teacher=Teacher(clean_teacher), robust_teacher=Teacher(robust_teacher))

    def objective(
        self,
        model: nn.Module,
        batch: Batch,
        images_adv: Tensor,
        clean_teacher: nn.Module,
        robust_teacher: nn.Module,
        epoch: int,
    ) -> Loss:
        """The loss of attacked images. They are passed first, then clean ones, with batch statistics of their own."""
        labels = one_class(batch.labels, "iad_2")
        logits = logits_of(model, images_adv)
        with torch.no_grad():
            target, target_clean = logits_of(robust_teacher, images_adv), logits_of(clean_teacher, images_adv)
        adversarial = cross_entropy(logits, labels)
        taught = softened_divergence(target, logits, self.temperature, "none")
        clean = softened_divergence(target_clean, logits, self.temperature, "batch_mean")
        own, trusted = torch.zeros_like(clean), torch.ones_like(taught)
        if epoch >= self.begin_epoch:
            trusted, rest = trust(target, labels, self.exponent)
            views = Views(clean=logits_of(model, batch.images), adversarial=logits)
            own = self.temperature**2 * introspection(views, rest)
        robust = (trusted * taught).mean()
        parts = {
            "loss_adversarial": adversarial.detach().mean(),
            "loss_clean": clean.detach(),
            "loss_robust": robust.detach(),
            "loss_own": own.detach(),
            "trust": trusted.mean(),
            "train_adversarial_accuracy": accuracy(logits, labels),
        }
        label_weight = 1 - self.clean_weight - self.robust_weight
        total = label_weight * adversarial.mean() + self.robust_weight * (robust + own) + self.clean_weight * clean
        return Loss(total, parts, adversarial=adversarial, attacked_logits=logits, attacked_target=target)
