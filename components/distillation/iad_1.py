"""IAD-I: ARD whose student also asks itself, the more the less its teacher knows of the attacked image.

Zhu et al., "Reliable Adversarial Distillation with Unreliable Teachers", ICLR 2022, arXiv 2106.04928.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.parts.clean_pass import CleanPasses, clean_logits
from components.distillation.parts.divergence import softened_divergence
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.introspection import introspection, trust
from components.distillation.parts.taught import TaughtByEpoch
from components.foundation.params import NotNegative, Positive, Share, Whole, strict
from components.methods.parts.contract import Loss, Method, Teacher, one_class
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import Views, logits_of
from components.numerics.losses import accuracy, cross_entropy


@strict
class Iad1:
    """α · mean[T² · KL(q_T(x) ‖ p_T(x̃)) + (1 - a) · KL(p(x) ‖ p(x̃))] + (1 - α) · CE(f(x), y), a = q_y(x̃)^`exponent`.

    q is the robust teacher, T the `temperature`; p(x), the student's own answer, is not held constant. Before
    `begin_epoch` a is 1, so that this is ARD. The published code gives the teacher's term no weight (`weighted` self);
    with both it is a · T² · KL. Published: `alpha` 1, `temperature` 1, `exponent` 0.1, `begin_epoch` 60 of 200, an
    attack up the cross-entropy from `uniform`, crafted with `batch_norm` train, `clean_passes` always. Besides, the
    published code passes attacked images twice in each step, and clean ones twice from `begin_epoch` on, once for each
    term: these passes repeat what batch norm's running statistics have just seen, change nothing else, and are left
    out. Errors: mixed labels.
    """

    attack: InnerAttack  # How the student's images are attacked.
    alpha: Share  # Weight of teacher and student against the labels.
    temperature: Positive  # Softens the predictions of teacher and student in the teacher's term.
    exponent: NotNegative  # How fast trust falls with the teacher's probability of the label; 0: full trust.
    begin_epoch: Whole  # The first epoch in which the student asks itself, counted from 0.
    weighted: Literal["self", "both"]  # Which divergences are weighted by trust: the student's own, or both.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.
    clean_passes: CleanPasses = "weighted"  # When clean images are passed: where they have a weight, or always.

    def build(self, robust_teacher: nn.Module) -> Method:
        return TaughtByEpoch(self, robust_teacher=Teacher(robust_teacher))

    def objective(
        self, model: nn.Module, batch: Batch, images_adv: Tensor, robust_teacher: nn.Module, epoch: int
    ) -> Loss:
        """The loss of attacked images. They are passed first, then clean ones, with batch statistics of their own."""
        labels, asks = one_class(batch.labels, "iad_1"), epoch >= self.begin_epoch
        logits_adv = logits_of(model, images_adv)
        with torch.no_grad():
            target = logits_of(robust_teacher, batch.images)
        taught = softened_divergence(target, logits_adv, self.temperature, "none")
        own, trusted, target_adv = torch.zeros_like(taught[0]), torch.ones_like(taught), None
        logits = clean_logits(model, batch.images, max(asks, 1 - self.alpha), self.clean_passes)
        if asks and logits is not None:
            with torch.no_grad():
                target_adv = logits_of(robust_teacher, images_adv)
            trusted, rest = trust(target_adv, labels, self.exponent)
            own = introspection(Views(logits, logits_adv), rest)
        taught = (taught * trusted if self.weighted == "both" else taught).mean()
        parts = {
            "loss_robust": taught.detach(),
            "loss_own": own.detach(),
            "trust": trusted.mean(),
            "train_adversarial_accuracy": accuracy(logits_adv, labels),
        }
        total = self.alpha * (taught + own)
        if logits is not None and self.alpha < 1:
            clean = cross_entropy(logits, labels).mean()
            total, parts["loss_clean"] = total + (1 - self.alpha) * clean, clean.detach()
        return Loss(total, parts, attacked_logits=logits_adv, attacked_target=target_adv)
