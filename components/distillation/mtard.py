"""MTARD: a student of a clean and a robust teacher that weighs both by how much is left to learn from each.

Zhao et al., "Enhanced Accuracy and Robustness via Multi-Teacher Adversarial Distillation", ECCV 2022.
"""

from torch import nn

from components.distillation.parts.balance import Ceilings, WeightRule
from components.distillation.parts.balances import Balances, Weights
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.two_teachers import TwoTeachers
from components.foundation.params import Count, Positive, Real, Share, strict
from components.methods.parts.crafting import BatchNormMode
from components.numerics.losses import MeanReduction


@strict
class Mtard:
    """w_r · KL(q_r(x̃) ‖ p(x̃)) + w_c · KL(q_c(x) ‖ p(x)) with weights that move towards l̂^β / (l̂_r^β + l̂_c^β).

    l̂ is a side's loss over that of the first batch, β the `exponent`: how strongly the slower side is favoured. Nobody
    has a temperature. Published: `weight_step` 0.025, multiplied by `balance_decay` 0.1 after epochs 215, 260 and 285
    of 300, `exponent` 1, an attack up the cross-entropy from `gaussian`, `reduction` class_mean, on CIFAR-100 times 10,
    which equals a tenfold learning rate with a tenth of the weight decay. The optional keys have what is published;
    what else they allow is ours.
    """

    attack: InnerAttack  # How the student's images are attacked.
    reduction: MeanReduction  # Over what both divergences are averaged.
    weight_step: Real  # How far a weight moves in one step of the balance.
    balance_milestones: tuple[int, ...]  # Epochs done at which the step size is multiplied.
    balance_decay: Real  # What the step size is multiplied by.
    exponent: Positive = 1.0  # How strongly the side is favoured that has learned less.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.
    weight_rule: WeightRule = "loss"
    """What moves the weights: the `loss` as published, once an epoch the `validation` split, where the side that is
    further below its teacher gets more, or nothing, `fixed`."""
    robust_weight: Share = 0.5  # The robust side's weight at the start; the clean side has the rest.
    validation_step: Share = 0.5
    """How far weights move to the shares of what is missing after an epoch, by the rule `validation`; 1: all the
    way."""
    origin_batches: Count = 1  # Batches over which the losses are averaged that later ones are held against.
    label_weight: Share = 0.0  # Share of the loss that is cross-entropy of the attacked images and their labels.

    def build(
        self, clean_teacher: nn.Module, robust_teacher: nn.Module, ceilings: Ceilings | None = None
    ) -> TwoTeachers:
        return TwoTeachers(self, Balances(Weights(self, self.exponent, ceilings)), clean_teacher, robust_teacher)
