"""Students of a robust and a clean teacher: the one is asked for the attacked image, the other for the clean one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.parts.balance import Pair
from components.distillation.parts.balances import Balances, Distilled
from components.distillation.parts.taught import Taught
from components.methods.parts.contract import Loss, Teacher
from components.methods.parts.two_views import Views, accuracies, logits_of
from components.models.parts.batch_norm import untracked
from components.numerics.losses import cross_entropy


class TwoTeachers(Taught):
    """The objective w_r · KL(q_r(x̃) ‖ p(x̃)) + w_c · KL(q_c(x) ‖ p(x)) with the weights and temperatures of `balances`.

    x̃ is the student's own attack; q_r and q_c are the teachers' probabilities, at their temperatures if they have some;
    the student has none. Its fields say the `reduction` and the `label_weight`.
    """

    clean_teacher: Teacher
    surveys = True

    def __init__(self, fields: object, balances: Balances, clean_teacher: nn.Module, robust_teacher: nn.Module) -> None:
        super().__init__(fields, clean_teacher=Teacher(clean_teacher), robust_teacher=Teacher(robust_teacher))
        self.balances = balances
        # Of the batch whose parts are learned from.
        self.whole: Distilled | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Sets the decay of both step sizes for this epoch (counted from 0)."""
        self.balances.begin_epoch(epoch)

    def end_validation(self, record: Mapping[str, float]) -> None:
        """Moves the weights, where they follow the validation split."""
        self.balances.weights.end_validation(record)

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        """The loss of attacked images; moves both balances, unless those of the whole batch were moved before."""
        views, asked = self._answers(model, batch, images_adv)
        if self.whole is None:
            distilled = self.balances.distil(views, asked, self.fields.reduction)
        else:
            distilled = self.balances.as_in(self.whole, views, asked, self.fields.reduction)
        total, labelled = with_labels(distilled.total, views.adversarial, batch.labels, self.fields.label_weight)
        parts = distilled.parts | labelled | accuracies(views, batch.labels)
        return Loss(total, parts, attacked_logits=views.adversarial, attacked_target=asked.robust)

    def survey(self, model: nn.Module, crafted: Sequence[tuple[Batch, Tensor]]) -> None:
        """Moves both balances by the whole batch, for one more pass of all networks; no statistics of batches move."""
        self.whole = None
        if crafted:
            with untracked(model):
                answers = [self._answers(model, *part) for part in crafted]
            views = Views(*(torch.cat([views[side] for views, _ in answers]) for side in range(2)))
            asked = Pair(*(torch.cat([asked[side] for _, asked in answers]) for side in range(2)))
            self.whole = self.balances.distil(views, asked, self.fields.reduction)

    def _answers(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> tuple[Views, Pair]:
        """The logits of the student, and of the teacher of each view."""
        # Two forward passes, adversarial first, so that each has its own batch statistics.
        logits_adv, logits = logits_of(model, images_adv), logits_of(model, batch.images)
        with torch.no_grad():
            asked = Pair(logits_of(self.robust_teacher, images_adv), logits_of(self.clean_teacher, batch.images))
        return Views(logits, logits_adv), asked


def with_labels(total: Tensor, logits_adv: Tensor, labels: Tensor, weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """(1 - λ) · total + λ · CE(f(x̃), y) with λ the `weight`, and the cross-entropy to log; without a weight `total`."""
    if not weight:
        return total, {}
    hard = cross_entropy(logits_adv, labels).mean()
    return (1 - weight) * total + weight * hard, {"loss_label": hard.detach()}
