"""SAAD: the teacher counts on an image as far as it is unsure of the attacked one, and so is fooled with the student.

Lee & Chung, "Sample-wise Adaptive Weighting for Transfer Consistency in Adversarial Distillation", TMLR 2026,
arXiv 2512.10275.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.parts.clean_pass import CleanPasses, clean_logits
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.taught import TaughtByEpoch
from components.foundation.params import Epochs, NotNegative, Positive, strict
from components.methods.parts.contract import Loss, Teacher
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.input_gradient import across
from components.methods.parts.two_views import logits_of
from components.numerics import parallel
from components.numerics.losses import TINY, accuracy, entropy, kl_divergence


@strict
class Saad:
    """mean[w_i · (KL(q(x̃) ‖ p(x̃)) + α · (epoch / epochs) · G_i) + β · (1 - w̄_i) · KL(q(x) ‖ p(x))].

    q is the robust teacher. w_i = s · (H_i - min H) with H_i the entropy of q(x̃) and s the `entropy_weight`, w̄_i =
    (H_i - min H) / (max H - min H), both over the whole batch; no gradient goes through them. G_i is the term of IGDM,
    KL(softmax(t(x̃) - t(x - δ)) ‖ softmax(f(x̃) - f(x - δ))), as in the published code; the paper has x in the place of
    x - δ. The epoch is counted from 1. No label enters but in the attack. Published: `alpha` 1 on CIFAR-10, 20 on
    CIFAR-100 and 10 on Tiny-ImageNet (in a comment of the code: 1, 10, 10), `beta` 0 for SAAD and 0.2 for SAAD-C,
    `entropy_weight` 5, an attack up `kl_teacher_linear` from `gaussian`, `clean_passes` always, SWA from epoch 95 of
    200. With `alpha` 0 there is no pass of x - δ; with `beta` 0 none of x, unless `clean_passes` says so.
    """

    attack: InnerAttack  # How the student's images are attacked.
    alpha: NotNegative  # Weight of the input gradients in the last epoch, to which it grows.
    beta: NotNegative  # Weight of clean images, the more the surer the teacher is of the attacked ones.
    entropy_weight: Positive  # Weight of an image for each nat above the batch's smallest entropy.
    epochs: Epochs  # How long `alpha` grows, the recipe's epochs.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.
    clean_passes: CleanPasses = "weighted"  # When clean images are passed: where they have a weight, or always.

    def build(self, robust_teacher: nn.Module) -> "SaadMethod":
        return SaadMethod(self, robust_teacher=Teacher(robust_teacher))

    def objective(
        self, model: nn.Module, batch: Batch, images_adv: Tensor, robust_teacher: nn.Module, epoch: int
    ) -> Loss:
        """The loss of attacked images. Passes, each with batch statistics of its own: x̃, x - δ, x."""
        images, alpha = batch.images, self.alpha * (epoch + 1) / self.epochs
        logits_adv = logits_of(model, images_adv)
        with torch.no_grad():
            target_adv = logits_of(robust_teacher, images_adv)
        unsure = _unsure(target_adv)
        attacked = kl_divergence(target_adv, logits_adv, "none")
        parts = {"loss_robust": attacked.detach().mean(), "weight_robust": self.entropy_weight * unsure.above.mean()}
        if self.alpha:
            with torch.no_grad():
                rise = across(robust_teacher, images, images_adv, target_adv)
            gradients = kl_divergence(rise, across(model, images, images_adv, logits_adv), "none")
            attacked = attacked + alpha * gradients
            parts["loss_gradient"] = gradients.detach().mean()
        total = self.entropy_weight * (unsure.above * attacked).mean()
        logits = clean_logits(model, images, self.beta, self.clean_passes)
        if logits is not None:
            parts["train_accuracy"] = accuracy(logits, batch.labels)
        if logits is not None and self.beta:
            with torch.no_grad():
                target = logits_of(robust_teacher, images)
            clean = kl_divergence(target, logits, "none")
            total = total + self.beta * ((1 - unsure.share) * clean).mean()
            parts["loss_clean"] = clean.detach().mean()
        parts["train_adversarial_accuracy"] = accuracy(logits_adv, batch.labels)
        return Loss(total, parts, attacked_logits=logits_adv, attacked_target=target_adv)


class SaadMethod(TaughtByEpoch):
    """The objective of `Saad`, which must see the whole batch for its smallest and largest entropy."""

    divisible = False


class _Unsure(NamedTuple):
    """How far the entropy of each prediction lies above the smallest one, in nats, and as a share of the range, [N]."""

    above: Tensor
    share: Tensor


@torch.no_grad()
def _unsure(logits: Tensor) -> _Unsure:
    entropies = entropy(logits.double())
    # Of the whole batch, so that processes that train together give each image the weight that one process would.
    ends = parallel.gathered(torch.stack([entropies.amin(), entropies.amax()]))
    least, most = ends[:, 0].amin(), ends[:, 1].amax()
    above = entropies - least
    return _Unsure(above.to(logits.dtype), (above / (most - least).clamp_min(TINY)).to(logits.dtype))
