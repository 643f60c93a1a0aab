"""B-MTARD: a student of a clean and a robust teacher, with balanced knowledge and balanced learning speed.

Zhao et al., "Mitigating Accuracy-Robustness Trade-off via Balanced Multi-Teacher Adversarial Distillation",
arXiv 2306.16170.
"""

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.parts.balance import Pair, balance_entropy, balance_loss
from components.distillation.parts.inner_attack import InnerAttack
from components.distillation.parts.taught import Taught
from components.foundation.params import Positive, Real, strict
from components.methods.parts.contract import Loss, Teacher
from components.methods.parts.crafting import BatchNormMode
from components.methods.parts.two_views import Views, accuracies, logits_of
from components.numerics import parallel
from components.numerics.losses import MeanReduction, entropy, kl_divergence


@strict
class BMtard:
    """The fields of the method: the student's attack, both balances' step sizes and the decay of those with the epochs.

    `reduction` is that of both divergences: `batch_mean`, or the published code's `class_mean`, which goes with its
    learning rate. At each of `balance_milestones` (epochs done) both step sizes are multiplied by `balance_decay`.
    Unlike here, the published code does not clip the start x + 0.001 N to [0, 1] before the first gradient, and has
    1e-5 inside its logarithms.
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

    def __post_init__(self) -> None:
        if self.temperature_max < self.temperature_min:
            raise ValueError(f"got temperatures {self.temperature_min} to {self.temperature_max}, want min <= max")

    def build(self, clean_teacher: nn.Module, robust_teacher: nn.Module) -> "BMtardMethod":
        return BMtardMethod(self, clean_teacher, robust_teacher)


class BMtardMethod(Taught):
    """The objective w_r · KL(q_r(x̃) ‖ p(x̃)) + w_c · KL(q_c(x) ‖ p(x)) and the state of its two balances.

    x̃ is the student's own attack; q_r and q_c are the teachers' probabilities at their temperatures, the student has
    none. What both balances remember are pairs: first the robust teacher's side, then the clean teacher's.
    """

    fields: BMtard
    clean_teacher: Teacher
    temperatures: Tensor
    weights: Tensor
    first_losses: Tensor
    divisible = False

    def __init__(self, fields: BMtard, clean_teacher: nn.Module, robust_teacher: nn.Module) -> None:
        super().__init__(fields, clean_teacher=Teacher(clean_teacher), robust_teacher=Teacher(robust_teacher))
        self.register_buffer("temperatures", torch.full((2,), fields.temperature_min))
        self.register_buffer("weights", torch.full((2,), 0.5))
        # NaN until the first step, whose losses they become.
        self.register_buffer("first_losses", torch.full((2,), torch.nan))
        self.decay = 1.0

    def begin_epoch(self, epoch: int) -> None:
        """Sets the decay of both step sizes for this epoch (counted from 0)."""
        self.decay = self.fields.balance_decay ** sum(epoch >= done for done in self.fields.balance_milestones)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        """The loss of attacked images; moves both balances."""
        images = batch.images
        # Two forward passes, adversarial first, so that each has its own batch statistics.
        logits_adv, logits = logits_of(model, images_adv), logits_of(model, images)
        targets = self._soft_labels(images, images_adv)
        losses = Pair(
            kl_divergence(targets.robust, logits_adv, self.fields.reduction),
            kl_divergence(targets.clean, logits, self.fields.reduction),
        )
        parts = self._rebalance(targets, Pair(losses.robust.detach(), losses.clean.detach()))
        weights = Pair(*self.weights)
        total = weights.robust * losses.robust + weights.clean * losses.clean
        return Loss(total, parts | accuracies(Views(logits, logits_adv), batch.labels), attacked_logits=logits_adv)

    @torch.no_grad()
    def _soft_labels(self, images: Tensor, images_adv: Tensor) -> Pair:
        """The teachers' logits over their temperatures, [N, K] each."""
        temperatures = Pair(*self.temperatures)
        return Pair(
            logits_of(self.robust_teacher, images_adv) / temperatures.robust,
            logits_of(self.clean_teacher, images) / temperatures.clean,
        )

    @torch.no_grad()
    def _rebalance(self, targets: Pair, losses: Pair) -> dict[str, Tensor]:
        """Moves temperatures (used from the next step) and weights (used in this one); what to log of both."""
        fields = self.fields
        # Of the whole batch, so that processes that train together keep the same balance.
        num = len(targets.robust)
        losses = Pair(*(parallel.mean(loss, num) for loss in losses))
        entropies = Pair(*(parallel.mean(entropy(target).mean(), num) for target in targets))
        used = Pair(*self.temperatures)
        heated = balance_entropy(
            used, entropies, fields.temperature_step * self.decay, fields.temperature_min, fields.temperature_max
        )
        first = [torch.where(old.isnan(), loss, old) for old, loss in zip(self.first_losses, losses, strict=True)]
        relative = Pair(*(loss / begin for loss, begin in zip(losses, first, strict=True)))
        weights = balance_loss(Pair(*self.weights), relative, fields.weight_step * self.decay)
        self.temperatures, self.first_losses, self.weights = map(torch.stack, (heated, first, weights))
        logged = {"loss": losses, "temperature": used, "entropy": entropies}
        logged |= {"relative_loss": relative, "weight": weights}
        return {f"{name}_{side}": getattr(pair, side) for name, pair in logged.items() for side in Pair._fields}
