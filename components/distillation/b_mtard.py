"""B-MTARD: a student of a clean and a robust teacher, with balanced knowledge and balanced learning speed.

Zhao et al., "Mitigating Accuracy-Robustness Trade-off via Balanced Multi-Teacher Adversarial Distillation",
arXiv 2306.16170.
"""

from torch import nn

from components.distillation.parts.balance import Ceilings, TemperatureRule, WeightRule
from components.distillation.parts.balances import Balances, Temperatures, Weights, require_range
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.two_teachers import TwoTeachers
from components.foundation.params import Count, Positive, Real, Share, strict
from components.methods.parts.crafting import BatchNormMode
from components.numerics.losses import MeanReduction


@strict
class BMtard:
    """w_r · KL(q_r(x̃) ‖ p(x̃)) + w_c · KL(q_c(x) ‖ p(x)); one balance moves the temperatures, the other the weights.

    `reduction` is that of both divergences. At each of `balance_milestones` (epochs done) both step sizes are
    multiplied by `balance_decay`. Published: `temperature_step` 1e-3, temperatures from 1 to 10, `weight_step` 0.025,
    both steps multiplied by 0.1 after epochs 215, 260 and 285 of 300, an attack up the cross-entropy from `gaussian`,
    `reduction` class_mean, on CIFAR-100 times 10, which equals a tenfold learning rate with a tenth of the weight
    decay. The optional keys have what is published; what else they allow is ours. Unlike here, the published code does
    not clip the start x + 0.001 N to [0, 1] before the first gradient, and has 1e-5 inside its logarithms.

    The parts of the loss say how the balances do: `temperature_at_min_robust` is the share of an epoch's steps in which
    the robust teacher's temperature was the smallest allowed, and so on for `temperature_at_max` and for `clean`.
    """

    attack: InnerAttack  # How the student's images are attacked.
    reduction: MeanReduction  # Over what both divergences are averaged.
    temperature_step: Real  # How far a temperature moves in one step of the balance.
    temperature_min: Positive  # The smallest temperature of the balance.
    temperature_max: Real  # The largest temperature, no less than `temperature_min`.
    weight_step: Real  # How far a weight moves in one step of the balance.
    balance_milestones: tuple[int, ...]  # Epochs done at which both step sizes are multiplied.
    balance_decay: Real  # What both step sizes are multiplied by.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.
    temperature_rule: TemperatureRule = "step"
    """How temperatures move: `step` by step as published, or to where both entropies are equal in each step, `solve`,
    which has no step size."""
    weight_rule: WeightRule = "loss"
    """What moves the weights: the `loss` as published, once an epoch the `validation` split, where the side that is
    further below its teacher gets more, or nothing, `fixed`."""
    robust_weight: Share = 0.5  # The robust side's weight at the start; the clean side has the rest.
    validation_step: Share = 0.5
    """How far weights move to the shares of what is missing after an epoch, by the rule `validation`; 1: all the
    way."""
    origin_batches: Count = 1  # Batches over which the losses are averaged that later ones are held against.
    label_weight: Share = 0.0  # Share of the loss that is cross-entropy of the attacked images and their labels.

    def __post_init__(self) -> None:
        require_range(self)

    def build(
        self, clean_teacher: nn.Module, robust_teacher: nn.Module, ceilings: Ceilings | None = None
    ) -> TwoTeachers:
        balances = Balances(Weights(self, 1.0, ceilings), Temperatures(self))
        return TwoTeachers(self, balances, clean_teacher, robust_teacher)
