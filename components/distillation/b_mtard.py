"""B-MTARD: a student of a clean and a robust teacher, with balanced knowledge and balanced learning speed.

Zhao et al., "Mitigating Accuracy-Robustness Trade-off via Balanced Multi-Teacher Adversarial Distillation",
arXiv 2306.16170.
"""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.batch import Batch
from components.distillation.parts.balance import Pair, balance_entropy, balance_loss
from components.foundation.params import STRICT, Real
from components.methods.parts.contract import Loss
from components.numerics import parallel
from components.numerics.losses import Reduction, accuracy, entropy, hard, kl_divergence
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BMtard:
    """The fields of the method: the student's attack, both balances' step sizes and the decay of those with the epochs.

    `reduction` is that of both divergences: `batch_mean`, or the published code's `class_mean`, which goes with its
    learning rate. At each of `balance_milestones` (epochs done) both step sizes are multiplied by `balance_decay`.
    """

    attack: Pgd
    reduction: Reduction
    temperature_step: Real
    temperature_min: Real
    temperature_max: Real
    weight_step: Real
    balance_milestones: tuple[int, ...]
    balance_decay: Real

    def __post_init__(self) -> None:
        if self.reduction == "none":
            raise ValueError("got reduction 'none', want 'batch_mean' or 'class_mean'")
        if not 0 < self.temperature_min <= self.temperature_max:
            raise ValueError(f"got temperatures {self.temperature_min} to {self.temperature_max}, want 0 < min <= max")

    def taught_by(self, clean_teacher: nn.Module, robust_teacher: nn.Module) -> "BMtardMethod":
        """The training method with these teachers, which must be frozen and in evaluation mode."""
        return BMtardMethod(self, clean_teacher, robust_teacher)


class BMtardMethod:
    """The objective w_r · KL(q_r(x̃) ‖ p(x̃)) + w_c · KL(q_c(x) ‖ p(x)) and the state of its two balances.

    x̃ is the student's own attack; q_r and q_c are the teachers' probabilities at their temperatures, the student has
    none.
    """

    def __init__(self, fields: BMtard, clean_teacher: nn.Module, robust_teacher: nn.Module) -> None:
        self.fields, self.clean_teacher, self.robust_teacher = fields, clean_teacher, robust_teacher
        device = next(clean_teacher.parameters()).device
        low = torch.tensor(fields.temperature_min, device=device)
        half = torch.tensor(0.5, device=device)
        self.temperatures = Pair(low, low.clone())
        self.weights = Pair(half, half.clone())
        # NaN until the first step, whose losses they become.
        self.first_losses = Pair(half * torch.nan, half * torch.nan)
        self.decay = 1.0

    def begin_epoch(self, epoch: int) -> None:
        """Sets the decay of both step sizes for this epoch (counted from 0)."""
        self.decay = self.fields.balance_decay ** sum(epoch >= done for done in self.fields.balance_milestones)

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        images, labels = batch.images, batch.labels
        images_adv = self.fields.attack(model, images, hard(labels), threat, rng)
        # Two forward passes, adversarial first, so that each has its own batch statistics.
        logits_adv, logits = model(images_adv), model(images)
        targets = self._soft_labels(images, images_adv)
        losses = Pair(
            kl_divergence(targets.robust, logits_adv.float(), self.fields.reduction),
            kl_divergence(targets.clean, logits.float(), self.fields.reduction),
        )
        parts = self._rebalance(targets, Pair(losses.robust.detach(), losses.clean.detach()))
        total = self.weights.robust * losses.robust + self.weights.clean * losses.clean
        return Loss(
            total,
            parts
            | {
                "train_accuracy": accuracy(logits, labels),
                "train_adversarial_accuracy": accuracy(logits_adv, labels),
            },
        )

    @torch.no_grad()
    def _soft_labels(self, images: Tensor, images_adv: Tensor) -> Pair:
        return Pair(
            (self.robust_teacher(images_adv).float() / self.temperatures.robust).softmax(1),
            (self.clean_teacher(images).float() / self.temperatures.clean).softmax(1),
        )

    @torch.no_grad()
    def _rebalance(self, targets: Pair, losses: Pair) -> dict[str, Tensor]:
        """Moves temperatures (used from the next step) and weights (used in this one); what to log of both."""
        fields = self.fields
        # Of the whole batch, so that processes that train together keep the same balance.
        num = len(targets.robust)
        losses = Pair(*(parallel.mean(loss, num) for loss in losses))
        entropies = Pair(*(parallel.mean(entropy(target).mean(), num) for target in targets))
        used = self.temperatures
        self.temperatures = balance_entropy(
            used, entropies, fields.temperature_step * self.decay, fields.temperature_min, fields.temperature_max
        )
        self.first_losses = Pair(
            *(torch.where(first.isnan(), loss, first) for first, loss in zip(self.first_losses, losses, strict=True))
        )
        relative = Pair(losses.robust / self.first_losses.robust, losses.clean / self.first_losses.clean)
        self.weights = balance_loss(self.weights, relative, fields.weight_step * self.decay)
        logged = {
            "loss": losses,
            "temperature": used,
            "entropy": entropies,
            "relative_loss": relative,
            "weight": self.weights,
        }
        return {f"{name}_{side}": getattr(pair, side) for name, pair in logged.items() for side in Pair._fields}

    def state_dict(self) -> dict[str, Tensor]:
        """Temperatures, weights and first losses as scalar tensors."""
        return {f"{name}.{side}": getattr(getattr(self, name), side) for name in _STATE for side in Pair._fields}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores `state_dict`, on the device the state is on now."""
        for name in _STATE:
            current = getattr(self, name)
            setattr(self, name, Pair(*(state[f"{name}.{side}"].to(current.robust.device) for side in Pair._fields)))


_STATE = ("temperatures", "weights", "first_losses")
