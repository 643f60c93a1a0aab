"""CIARD: B-MTARD's targets, away from the clean teacher's mistakes, with a robust teacher that goes on learning.

"CIARD: Cyclic Iterative Adversarial Robustness Distillation", ICCV 2025.
"""

import copy
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.data.batch import Batch
from components.distillation.parts.balance import Ceilings, Pair, TemperatureRule, WeightRule, over_batch
from components.distillation.parts.balances import Balances, Temperatures, Weights, require_range
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.own_descent import OwnDescent
from components.distillation.parts.taught import Taught
from components.distillation.parts.two_teachers import with_labels
from components.foundation.params import Count, Epochs, NotNegative, Positive, Real, Share, Whole, strict
from components.methods.parts.contract import GoesOn, Loss, Teacher
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import accuracies, logits_of, look_twice
from components.numerics import parallel
from components.numerics.losses import MeanReduction, accuracy, answers, cross_entropy, hard, kl_divergence
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat

TeacherBatchNorm = Literal["train", "train_attacked", "eval"]
"""The robust teacher's batch norm. `train`, as published: in training mode from the first step on, on clean and on
attacked batches, so that its statistics move although its weights do not yet. `train_attacked`: without the clean
batches, whose answers nobody uses. `eval`: the statistics that it came with."""


@strict
class Ciard:
    """W · (w_r · KL(q_r(x̃) ‖ p(x̃)) + w_c · KL(q_c(x) ‖ p(x))) - λ · s · KL(q_c(x̃) ‖ p_5(x̃)), the last of the attacked
    images alone that the clean teacher gets wrong.

    The first two terms are those of B-MTARD, with its temperatures; p_5 is the student at the `push_temperature` 5, and
    the teacher in the last term has none. λ is `push_weight`, and s = 10^(min(⌊lg L_r⌋, ⌊lg L_c⌋) - ⌊lg L_push⌋) brings
    that term to the size of the others. W is `weight_sum`. From epoch `teacher_start` on (counted from 0) the robust
    teacher learns the attacked images' labels by a gradient descent of its own, with the rate
    `teacher_learning_rate` · (1 + cos(π t)) / 2 · exp(-t² / 100), where t goes from 0 to 1 between the end of that many
    epochs and the end of the run. What it learns is not kept after the run.

    Published: weights 1 and 1, which is `weight_rule` fixed with a `weight_sum` of 2 (an earlier version of the code
    has B-MTARD's weights, loss with 1); `push_temperature` 5, `push_weight` 1; the teacher's rate 1e-4, momentum 0.1,
    weight decay 2e-4 and start 50 of 300 epochs; `class_mean`; an attack up the cross-entropy from `gaussian`; the
    student's rate 0.1, from epoch 150 on down a cosine. The temperature step is decayed in every step of epoch 215, so
    that temperatures stand still from there on: `balance_milestones` [214] with `balance_decay` 0, one step less. Clean
    images are passed before attacked ones, here and there; there before the attack too, which thus goes by statistics
    that are a batch newer. Its 1e-5 in logarithms and its 1e-7 for losses of 0 are not here.
    """

    attack: InnerAttack  # How the student's images are attacked.
    reduction: MeanReduction  # Over what all divergences are averaged.
    temperature_step: Real  # How far a temperature moves in one step of the balance.
    temperature_min: Positive  # The smallest temperature of the balance.
    temperature_max: Real  # The largest temperature, no less than `temperature_min`.
    balance_milestones: tuple[int, ...]  # Epochs done at which both step sizes are multiplied.
    balance_decay: Real  # What both step sizes are multiplied by.
    push_temperature: Positive  # Softens the student's predictions in the term of the clean teacher's mistakes.
    push_weight: NotNegative  # Weight of that term, once it has the size of the others; 0: without it.
    teacher_learning_rate: NotNegative  # The robust teacher's rate when it begins to learn.
    teacher_momentum: Share  # Momentum of the robust teacher's descent.
    teacher_weight_decay: NotNegative  # Weight decay of the robust teacher's descent.
    teacher_start: Whole  # The first epoch in which the robust teacher learns, counted from 0.
    epochs: Epochs  # When the robust teacher's rate is 0, the recipe's epochs.
    teacher_batch_norm: TeacherBatchNorm = "train"
    """The robust teacher's batch norm: in training mode on clean and attacked batches, `train` as published, on
    attacked ones alone, `train_attacked`, or with the statistics that it came with, `eval`, as a program needs it."""
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.
    temperature_rule: TemperatureRule = "step"
    """How temperatures move: `step` by step as published, or to where both entropies are equal in each step, `solve`,
    which has no step size."""
    weight_rule: WeightRule = "fixed"
    """What moves the weights: nothing, `fixed` as published, the `loss` as in B-MTARD, or once an epoch the
    `validation` split, where the side that is further below its teacher gets more."""
    robust_weight: Share = 0.5  # The robust side's weight at the start; the clean side has the rest.
    weight_sum: Positive = 2.0  # What both sides' weights are multiplied by.
    weight_step: Real = 0.025  # How far a weight moves in one step of the balance, by the rule `loss`.
    validation_step: Share = 0.5
    """How far weights move to the shares of what is missing after an epoch, by the rule `validation`; 1: all the
    way."""
    origin_batches: Count = 1  # Batches over which the losses are averaged that later ones are held against.
    label_weight: Share = 0.0  # Share of the loss that is cross-entropy of the attacked images and their labels.

    def __post_init__(self) -> None:
        require_range(self)

    @property
    def goes_on(self) -> GoesOn | None:
        """The robust teacher, unless it keeps the batch norm that it came with."""
        return None if self.teacher_batch_norm == "eval" else GoesOn("robust_teacher", "teacher_batch_norm eval")

    def build(
        self, clean_teacher: nn.Module, robust_teacher: nn.Module, ceilings: Ceilings | None = None
    ) -> "CiardMethod":
        """The training method, with a robust teacher of its own; the one that is given stays as it is."""
        return CiardMethod(self, clean_teacher, copy.deepcopy(robust_teacher), ceilings)


class CiardMethod(Taught):
    """The objective of `Ciard`, its balances and its robust teacher, which this method moves by itself.

    To the loop that teacher is a companion: it is in checkpoints, in training mode, and its batch norm sees the whole
    batch where processes train together. Its step is made with the loss, before the student's, which it does not touch.
    """

    fields: Ciard
    clean_teacher: Teacher
    divisible = False

    def __init__(
        self, fields: Ciard, clean_teacher: nn.Module, robust_teacher: nn.Module, ceilings: Ceilings | None
    ) -> None:
        learning = robust_teacher.requires_grad_(False)
        super().__init__(fields, clean_teacher=Teacher(clean_teacher), robust_teacher=learning)
        self.balances = Balances(Weights(fields, 1.0, ceilings), Temperatures(fields))
        self.descent = OwnDescent(learning)
        self.learning_rate = self.rate_of(0)
        self.train()

    def train(self, mode: bool = True) -> "CiardMethod":
        """The mode of all but the teachers: the clean one has its own, the robust one that of its fields."""
        super().train(mode)
        if self.fields.teacher_batch_norm == "eval":
            self.robust_teacher.train(False)
        return self

    def begin_epoch(self, epoch: int) -> None:
        """Sets the balances' decay and the teacher's learning rate for this epoch (counted from 0)."""
        self.balances.begin_epoch(epoch)
        self.learning_rate = self.rate_of(epoch)

    def rate_of(self, epoch: int) -> float:
        """The robust teacher's learning rate in an epoch counted from 0; 0 where it does not learn."""
        fields, done = self.fields, epoch + 1 - self.fields.teacher_start
        if done <= 0:
            return 0.0
        way = done / max(1, fields.epochs - fields.teacher_start)
        return fields.teacher_learning_rate * (1 + math.cos(math.pi * way)) / 2 * math.exp(-0.01 * way**2)

    def end_validation(self, record: Mapping[str, float]) -> None:
        """Moves the weights, where they follow the validation split."""
        self.balances.weights.end_validation(record)

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        """The attacked images; a robust teacher that is asked answers in evaluation mode."""
        with eval_mode(self.robust_teacher):
            return super().craft(model, batch, threat, rng)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        """The loss of attacked images; moves the balances and the robust teacher."""
        fields, views = self.fields, look_twice(model, batch, images_adv)
        robust = self._teach_teacher(batch, images_adv)
        with torch.no_grad():
            clean, mistaken = (logits_of(self.clean_teacher, one) for one in (batch.images, images_adv))
        distilled = self.balances.distil(views, Pair(robust, clean), fields.reduction)
        total = fields.weight_sum * distilled.total
        parts = distilled.parts | {"teacher_adversarial_accuracy": accuracy(robust, batch.labels)}
        if fields.push_weight:
            pushed, scale, rate = self._push(mistaken, views.adversarial, hard(batch.labels), distilled.losses)
            total = total - fields.push_weight * scale * pushed
            parts |= {"loss_push": pushed.detach(), "push_scale": scale, "clean_teacher_mistakes": rate}
        total, labelled = with_labels(total, views.adversarial, batch.labels, fields.label_weight)
        parts |= labelled | accuracies(views, batch.labels)
        return Loss(total, parts, attacked_logits=views.adversarial)

    def _teach_teacher(self, batch: Batch, images_adv: Tensor) -> Tensor:
        """The robust teacher's logits of the attacked images, before the step that it makes down their loss."""
        fields, teacher = self.fields, self.robust_teacher
        if fields.teacher_batch_norm == "train":
            with torch.no_grad():
                teacher(batch.images)
        if not self.learning_rate:
            with torch.no_grad():
                return logits_of(teacher, images_adv)
        share = len(images_adv) / (batch.total or len(images_adv))
        logits, step = self.descent.logits_and_step(
            teacher, images_adv, lambda logits: share * cross_entropy(logits, batch.labels).mean()
        )
        step(self.learning_rate, fields.teacher_momentum, fields.teacher_weight_decay)
        return logits

    def _push(
        self, mistaken: Tensor, logits_adv: Tensor, labels: Tensor, losses: Pair
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The divergence from the clean teacher's answers that are wrong, its scale and the share of such images.

        The mean is over such images of the whole batch; without any both are 0.
        """
        fields, count = self.fields, len(labels)
        wrong = (answers(mistaken) != labels).to(logits_adv.dtype)
        rate = parallel.mean(wrong.mean(), count)
        apart = kl_divergence(mistaken.double(), logits_adv.double() / fields.push_temperature, "none")
        pushed = (apart.to(logits_adv.dtype) * wrong).mean() / torch.where(rate > 0, rate, 1)
        if fields.reduction == "class_mean":
            pushed = pushed / logits_adv.shape[1]
        with torch.no_grad():
            sizes = [*over_batch(losses, count), parallel.mean(pushed, count)]
            robust, clean, own = (size.double().abs().log10().floor() for size in sizes)
            scale = torch.where(rate > 0, 10 ** (torch.minimum(robust, clean) - own), 0)
        # Losses of 0 have no size, and there is nothing to bring to it.
        return pushed, scale.nan_to_num(0, 0, 0).to(logits_adv.dtype), rate
