"""KD+SWA: self-teachers, one clean and one robust, smooth the labels; weight averaging smooths the weights.

Chen et al., "Robust Overfitting May Be Mitigated by Properly Learned Smoothening", ICLR 2021. The averaging half is the
recipe's `average: {name: swa, …}`.
"""

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.shares import require_shares
from components.distillation.parts.taught import Taught
from components.foundation.params import NotNegative, Positive, strict
from components.methods.parts.contract import Loss, Method, Teacher
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.soft_targets import softened
from components.methods.parts.two_views import logits_of
from components.numerics.losses import accuracy, cross_entropy


@strict
class KdSwa:
    """(1 - w_c - w_r) · CE(f(x̃), y) + w_c · KD(f(x̃), clean(x̃)) + w_r · KD(f(x̃), robust(x̃)), means over the batch.

    w_c is `clean_weight`, w_r `robust_weight`; KD is T² · cross-entropy between the softmaxes of both logits over T,
    the `temperature`. All networks see the attacked image. Published: weights 0.1 and 0.6, temperature 2, an attack up
    the student's cross-entropy, crafted with `batch_norm` train. Errors: weights that are negative or above 1 in sum, a
    temperature of 0 or less.

    >>> fields = KdSwa(attack=student_attack, clean_weight=0.1, robust_weight=0.6, temperature=2)
    >>> sorted(fields.build(teacher, teacher).loss(model, batch, threat, rng).parts)
    ['loss_adversarial', 'loss_clean', 'loss_robust', 'train_adversarial_accuracy']
    """

    attack: InnerAttack  # How the student's images are attacked.
    clean_weight: NotNegative  # Weight of the clean teacher; both weights are at most 1 in sum.
    robust_weight: NotNegative  # Weight of the robust teacher.
    temperature: Positive  # Softens the predictions of teachers and student.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def __post_init__(self) -> None:
        require_shares(self.clean_weight, self.robust_weight)

    def build(self, clean_teacher: nn.Module, robust_teacher: nn.Module) -> Method:
        return Taught(self, clean_teacher=Teacher(clean_teacher), robust_teacher=Teacher(robust_teacher))

    def objective(
        self, model: nn.Module, batch: Batch, images_adv: Tensor, clean_teacher: nn.Module, robust_teacher: nn.Module
    ) -> Loss:
        """The loss of attacked images."""
        logits = logits_of(model, images_adv)
        adversarial = cross_entropy(logits, batch.labels)
        with torch.no_grad():
            target_clean, target = logits_of(clean_teacher, images_adv), logits_of(robust_teacher, images_adv)
        clean, robust = self._distilled(logits, target_clean), self._distilled(logits, target)
        label_weight = 1 - self.clean_weight - self.robust_weight
        parts = {
            "loss_adversarial": adversarial.detach().mean(),
            "loss_clean": clean.detach(),
            "loss_robust": robust.detach(),
            "train_adversarial_accuracy": accuracy(logits, batch.labels),
        }
        total = label_weight * adversarial.mean() + self.clean_weight * clean + self.robust_weight * robust
        return Loss(total, parts, adversarial=adversarial, attacked_logits=logits, attacked_target=target)

    def _distilled(self, logits: Tensor, target: Tensor) -> Tensor:
        # In double precision: a quotient of large logits has few decimals.
        soft = softened(target.double(), self.temperature)
        loss = cross_entropy(logits.double() / self.temperature, soft).mean()
        return (self.temperature**2 * loss).to(logits.dtype)
